//! `GET /`: a page that asks a question about an image and shows where the tokens went. One file, no scripts
//! from elsewhere.

use arrcoc_runtime::generate::Budget;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::Endpoint;
use crate::error::ApiError;
use crate::openapi::{Answer, Key, Page};
use crate::state::{App, Phase};

const PAGE: &str = include_str!("landing.html");

/// What the page holds in the place of what the server says of itself.
const SERVER: (&str, &str) = ("type=\"application/json\">null<", "type=\"application/json\">");

/// The page talks to this server only, and shows images that the user picked.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src blob: data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/",
        handler: get(handle),
        page: Page {
            method: "get",
            id: "landing",
            summary: "A page to try the model",
            tag: "operation",
            key: Key::None,
            request: None,
            answer: Answer::Other("HTML", "text/html", "string"),
            errors: &[],
        },
    }
}

async fn handle(State(app): State<App>) -> Result<Response, ApiError> {
    let page = page(&server(&app))?;
    Ok(([(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY)], page)
        .into_response())
}

/// What the page needs to know, and everyone may: `/v1/models` may want a key.
#[derive(Serialize)]
struct Server {
    /// Whether requests need a key.
    key: bool,
    #[serde(flatten)]
    model: Option<ServedModel>,
}

#[derive(Serialize)]
struct ServedModel {
    model: String,
    precision: &'static str,
    runtime: String,
    token_budgets: Vec<usize>,
    /// Whether any number of tokens may be asked for.
    chooses: bool,
    /// What images get unless something is chosen.
    budget: Budget,
}

fn server(app: &App) -> Server {
    let key = !app.config.auth.api_keys.is_empty();
    let Phase::Ready(serving) = app.phase() else { return Server { key, model: None } };
    let info = serving.engine.info();
    let model = ServedModel {
        model: serving.name.clone(),
        precision: info.precision.name(),
        runtime: info.runtime.clone(),
        token_budgets: info.token_budgets.clone(),
        chooses: !info.selectors.is_empty(),
        budget: info.default_budget,
    };
    Server { key, model: Some(model) }
}

/// The page with these words inside. A name cannot end the element that it stands in.
fn page(server: &Server) -> Result<String, ApiError> {
    let (place, before) = SERVER;
    let text = serde_json::to_string(server).map_err(ApiError::internal)?.replace('<', "\\u003c");
    Ok(PAGE.replacen(place, &format!("{before}{text}<"), 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_inside_its_element() {
        let model = ServedModel {
            model: "</script><script>alert(1)</script>".into(),
            precision: "fp32",
            runtime: String::new(),
            token_budgets: vec![64],
            chooses: false,
            budget: Budget::Auto,
        };
        let page = page(&Server { key: false, model: Some(model) }).unwrap();
        assert!(page.contains(r#""model":"\u003c/script>"#), "the page does not hold the name");
        assert_eq!(page.matches("<script").count(), PAGE.matches("<script").count());
    }
}
