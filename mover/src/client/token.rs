//! `mover token`: who may use the API.

use serde_json::json;

use super::api::{Api, cell, place, print_list, time};
use super::args::{TokenArgs, TokenCommand};
use crate::cli::Session;
use crate::cli::error::Result;
use crate::cli::exit::Exit;

const TOKENS: &str = "/api/v1/tokens";
const TOKENS_MAX: usize = 100_000;

/// Does it.
pub fn run(session: &Session, args: &TokenArgs) -> Result<Exit> {
    let (api, output) = (Api::new(&args.client)?, &session.output);
    match &args.what {
        TokenCommand::Create(args) => {
            let now = jiff::Timestamp::now().as_millisecond();
            let end = args.life.map(|life| now.saturating_add(i64::try_from(life.0.as_millis()).unwrap_or(i64::MAX)));
            let made = api.post(TOKENS, &json!({ "name": args.name, "role": args.role, "expires_at": end }))?;
            output.object("token", made.clone())?;
            if !output.json {
                output.line(&cell(&made["secret"]))?;
                output.note("it is shown this once; keep it in a file with mode 0600 and name that by --token-file");
            }
        }
        TokenCommand::List => {
            let tokens = api.list(TOKENS, &[], TOKENS_MAX)?;
            print_list(session, "token", &tokens, &["id", "name", "role", "created", "ends", "revoked"], |token| {
                vec![
                    cell(&token["id"]),
                    cell(&token["name"]),
                    cell(&token["role"]),
                    time(&token["created_at"]),
                    time(&token["expires_at"]),
                    if token["revoked"] == true { "yes" } else { "no" }.to_owned(),
                ]
            })?;
        }
        TokenCommand::Revoke(token) => {
            api.post(&format!("{TOKENS}/{}/revoke", place(&token.token)), &json!({}))?;
            output.say(&format!("{} counts no more", token.token))?;
            output.object("summary", json!({ "exit_code": 0 }))?;
        }
    }
    Ok(Exit::Done)
}
