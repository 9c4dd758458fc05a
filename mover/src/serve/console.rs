//! The console at `/`: files of `mover/src/console/`, in the binary, with a content security policy that lets nothing in
//! from elsewhere and runs nothing that is not a file of this list.

use actix_web::HttpResponse;
use actix_web::web::{self, ServiceConfig};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, media type, content of a file of the console.
macro_rules! file {
    ($name:literal, $media:expr) => {
        (concat!("/console/", $name), $media, include_bytes!(concat!("../console/", $name)))
    };
}

/// Path, media type, content.
const FILES: [(&str, &str, &[u8]); 24] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../console/index.html")),
    file!("style.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("api.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("format.js", SCRIPT),
    file!("icons.js", SCRIPT),
    file!("live.js", SCRIPT),
    file!("main.js", SCRIPT),
    file!("session.js", SCRIPT),
    file!("ui.js", SCRIPT),
    file!("views/agents.js", SCRIPT),
    file!("views/audit.js", SCRIPT),
    file!("views/job.js", SCRIPT),
    file!("views/jobs.js", SCRIPT),
    file!("views/login.js", SCRIPT),
    file!("views/overview.js", SCRIPT),
    file!("views/point.js", SCRIPT),
    file!("views/points.js", SCRIPT),
    file!("views/policies.js", SCRIPT),
    file!("views/policy_form.js", SCRIPT),
    file!("views/progress.js", SCRIPT),
    file!("views/refusals.js", SCRIPT),
    file!("views/tokens.js", SCRIPT),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn count(directory: &Path) -> usize {
        let entries = std::fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path());
        entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }

    #[test]
    fn every_file_of_the_console_is_in_the_binary() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console");
        assert_eq!(FILES.len(), count(&directory));
        for (path, media, content) in FILES {
            let text = std::str::from_utf8(content).expect("text");
            // What a page imports is served too.
            for line in text.lines().filter(|_| media == SCRIPT) {
                let Some(name) = line.strip_prefix("import ").and_then(|rest| rest.split('"').nth(1)) else { continue };
                let file = name.rsplit('/').next().expect("a name");
                assert!(FILES.iter().any(|(served, _, _)| served.ends_with(&format!("/{file}"))), "{path}: {name}");
            }
        }
    }
}
