//! Validates URLs of endpoints.

use http::Uri;

use crate::error::BuildError;

/// Checks the URL of a region's endpoint.
///
/// # Errors
///
/// [`BuildError::Endpoint`] with the reason.
pub(crate) fn check_endpoint(region: &str, url: &str) -> Result<(), BuildError> {
    let refuse = |reason| Err(BuildError::Endpoint { region: region.to_owned(), reason });
    let Ok(uri) = url.parse::<Uri>() else {
        return refuse("not a URL");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return refuse("no scheme or no host");
    };
    if authority.as_str().contains('@') {
        return refuse("a user name is not allowed");
    }
    if uri.query().is_some() {
        return refuse("a query is not allowed");
    }
    let is_local = matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]");
    match scheme {
        "https" => Ok(()),
        "http" if is_local => Ok(()),
        "http" => refuse("http:// is only allowed for this machine"),
        _ => refuse("the scheme must be https"),
    }
}
