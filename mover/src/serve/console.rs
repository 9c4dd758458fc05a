//! The console at `/`: files of `mover/src/console/`, in the binary, with a content security policy that lets nothing in
//! from elsewhere and runs nothing that is not a file of this list.

use actix_web::HttpResponse;
use actix_web::web::{self, ServiceConfig};

/// Path, media type, content.
const FILES: [(&str, &str, &[u8]); 1] = [("/", "text/html; charset=utf-8", include_bytes!("../console/index.html"))];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Adds the files.
pub fn routes(config: &mut ServiceConfig) {
    for (path, media, content) in FILES {
        config.service(web::resource(path).route(web::get().to(move || show(media, content))));
    }
}

async fn show(media: &'static str, content: &'static [u8]) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(("content-type", media))
        .insert_header(("content-security-policy", POLICY))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("cache-control", "no-cache"))
        .body(content)
}
