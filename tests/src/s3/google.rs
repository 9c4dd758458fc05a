//! The other dialect of the server: Google Cloud Storage's XML interface, translated to S3's and back.
//!
//! What this proves of a client: the URL and the variables by which it finds the store, the bearer token on every
//! request, the names of the headers, the condition of a creation (`x-goog-if-generation-match: 0`), that nothing of
//! another vendor's dialect is sent, and that it reads answers in which nothing of S3 is left. Objects, listings, ranges,
//! parts and errors are those of `s3s-fs`; Google documents them to be the same.
//!
//! What it does not prove: anything of Google's own service, such as how tokens are got, its limits of one name a second,
//! its own error codes; generations other than 0 are refused, and none is told.

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::http::request::Parts;

use super::faults::Answer;

/// The token that lets a client in.
pub(super) const TOKEN: &str = "ya29.the-token-of-every-test-server";
const CONDITION: HeaderName = HeaderName::from_static("x-goog-if-generation-match");

/// Makes a request of Google's dialect one of S3's; what the dialect does not know is answered here.
pub(super) fn to_s3(parts: &mut Parts) -> Result<(), Answer> {
    let headers = &mut parts.headers;
    let token = headers.remove(AUTHORIZATION);
    if token.is_none_or(|token| token.as_bytes() != format!("Bearer {TOKEN}").as_bytes()) {
        return Err(Answer::error(401, "AuthenticationRequired", "Authentication required."));
    }
    let foreign = headers.keys().find(|name| name.as_str().starts_with("x-amz-") || **name == IF_NONE_MATCH);
    if let Some(name) = foreign {
        let message = format!("{name} is no header of this dialect.");
        return Err(Answer::error(400, "InvalidArgument", &message));
    }
    match headers.remove(CONDITION) {
        None => {}
        Some(generation) if generation == "0" => {
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        Some(_) => return Err(Answer::error(400, "InvalidArgument", "Only generation 0 is known here.")),
    }
    Ok(())
}

/// Takes out of an answer what Google would not say.
pub(super) fn from_s3(headers: &mut HeaderMap) {
    let foreign: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-amz-")).cloned().collect();
    for name in foreign {
        headers.remove(name);
    }
}
