//! The actions of the STS: the caller's identity, and sessions of roles.

use std::time::{Duration, SystemTime};

use super::{
    query::Query,
    roles::{RoleSession, Roles},
    xml::{Fault, element, text},
};
use crate::{principals::Caller, random, time};

/// One action of the API.
pub(super) struct Action {
    pub(super) name: &'static str,
    /// Whether its requests must be signed.
    pub(super) signed: bool,
    run: fn(&Roles, &Query, Option<&Caller>, SystemTime) -> Result<String, Fault>,
}

/// The parts of a role's ARN.
struct Role<'a> {
    partition: &'a str,
    account: &'a str,
    name: &'a str,
}

const ACTIONS: [Action; 3] = [
    Action { name: "AssumeRole", signed: true, run: assume_role },
    Action { name: "AssumeRoleWithWebIdentity", signed: false, run: assume_role_with_web_identity },
    Action { name: "GetCallerIdentity", signed: true, run: get_caller_identity },
];

impl Action {
    /// Returns the action that a request names.
    pub(super) fn named(query: &Query) -> Option<&'static Self> {
        let known_version = query.optional("Version") == Some("2011-06-15");
        let name = query.optional("Action").filter(|_| known_version)?;
        ACTIONS.iter().find(|action| action.name == name)
    }

    /// Runs the action and returns the content of its result element, as XML.
    pub(super) fn run(
        &self,
        roles: &Roles,
        query: &Query,
        caller: Option<&Caller>,
        now: SystemTime,
    ) -> Result<String, Fault> {
        (self.run)(roles, query, caller, now)
    }
}

fn get_caller_identity(
    _: &Roles,
    _: &Query,
    caller: Option<&Caller>,
    _: SystemTime,
) -> Result<String, Fault> {
    let caller = caller.ok_or_else(|| Fault::validation("the request is not signed"))?;
    let parts = [
        text("Arn", &caller.arn),
        text("UserId", &caller.user_id),
        text("Account", &caller.account),
    ];
    Ok(parts.concat())
}

/// `Policy`, `PolicyArns`, `TransitiveTagKeys` and the like are accepted and have no effect.
fn assume_role(
    roles: &Roles,
    query: &Query,
    _: Option<&Caller>,
    now: SystemTime,
) -> Result<String, Fault> {
    let external_id = query.optional("ExternalId");
    if let Some(id) = external_id {
        length("externalId", id, 2, 1224)?;
    }
    create_session(roles, query, external_id, now)
}

fn assume_role_with_web_identity(
    roles: &Roles,
    query: &Query,
    _: Option<&Caller>,
    now: SystemTime,
) -> Result<String, Fault> {
    let token = query.required("WebIdentityToken")?;
    if !roles.accepts_token(token) {
        return Err(Fault::invalid_identity_token());
    }
    let session = create_session(roles, query, None, now)?;
    let known = [
        ("SubjectFromWebIdentityToken", "kms-local"),
        ("Audience", "sts.amazonaws.com"),
        ("Provider", "kms-local"),
    ];
    Ok(known.map(|(name, value)| text(name, value)).concat() + &session)
}

/// Creates a session for the requested role, for any caller.
fn create_session(
    roles: &Roles,
    query: &Query,
    external_id: Option<&str>,
    now: SystemTime,
) -> Result<String, Fault> {
    let role_arn = query.required("RoleArn")?;
    let session_name = query.required("RoleSessionName")?;
    let role = Role::parse(role_arn)
        .ok_or_else(|| Fault::validation(&format!("{role_arn} is invalid")))?;
    check_session_name(session_name)?;
    let lifetime = Duration::from_secs(query.number("DurationSeconds", 3600, 900..=43_200)?);
    let tags = query.tags()?;

    let Role { partition, account, name } = role;
    let caller = Caller {
        arn: format!("arn:{partition}:sts::{account}:assumed-role/{name}/{session_name}"),
        user_id: format!("AROA{}:{session_name}", random::base32(17)),
        account: account.to_owned(),
    };
    let user = [text("AssumedRoleId", &caller.user_id), text("Arn", &caller.arn)].concat();
    let session = roles.principals.issue_role_session(lifetime, now, caller);
    roles.add(RoleSession {
        role_arn: role_arn.to_owned(),
        session_name: session_name.to_owned(),
        external_id: external_id.map(str::to_owned),
        tags,
        access_key_id: session.access_key_id().to_owned(),
    });
    let credentials = [
        text("AccessKeyId", session.access_key_id()),
        text("SecretAccessKey", session.secret_access_key()),
        text("SessionToken", session.session_token().unwrap_or_default()),
        text("Expiration", &time::format_iso8601(session.expiry().unwrap_or(now))),
    ];
    Ok(element("AssumedRoleUser", &user) + &element("Credentials", &credentials.concat()))
}

impl<'a> Role<'a> {
    /// Parses an ARN such as `arn:aws:iam::111122223333:role/path/name`.
    fn parse(arn: &'a str) -> Option<Self> {
        let fields: Vec<_> = arn.splitn(6, ':').collect();
        let ["arn", partition, "iam", "", account, resource] = fields[..] else { return None };
        let name = resource.strip_prefix("role/")?.rsplit('/').next()?;
        let is_account = account.len() == 12 && account.bytes().all(|digit| digit.is_ascii_digit());
        (is_account && !partition.is_empty() && is_name(name)).then_some(Self {
            partition,
            account,
            name,
        })
    }
}

fn check_session_name(name: &str) -> Result<(), Fault> {
    length("roleSessionName", name, 2, 64)?;
    if is_name(name) {
        Ok(())
    } else {
        Err(Fault::validation("roleSessionName must match [\\w+=,.@-]*"))
    }
}

/// Returns whether a text can be the name of a role or of a session.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c))
}

fn length(member: &str, value: &str, min: usize, max: usize) -> Result<(), Fault> {
    if (min..=max).contains(&value.len()) {
        return Ok(());
    }
    Err(Fault::validation(&format!("{member} must have a length of {min} to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arn_of_a_role_is_parsed() {
        let role = Role::parse("arn:aws-cn:iam::111122223333:role/path/to/app").unwrap();
        assert_eq!((role.partition, role.account, role.name), ("aws-cn", "111122223333", "app"));
        for wrong in [
            "",
            "app",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:user/app",
            "arn:aws:iam::1111:role/app",
            "arn:aws:iam:us-east-1:111122223333:role/app",
            "arn:aws:sts::111122223333:role/app",
            "arn:aws:iam::111122223333:role/a<b",
        ] {
            assert!(Role::parse(wrong).is_none(), "{wrong}");
        }
    }
}
