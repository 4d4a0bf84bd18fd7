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
        return refuse("is not a URL");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return refuse("has no scheme or no host");
    };
    if authority.as_str().contains('@') {
        return refuse("holds a user name");
    }
    if uri.query().is_some() {
        return refuse("has a query");
    }
    let is_local = matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]");
    match scheme {
        "https" => Ok(()),
        "http" if is_local => Ok(()),
        "http" => refuse("is http:// to another machine, where only https:// is allowed"),
        _ => refuse("has a scheme other than https"),
    }
}
