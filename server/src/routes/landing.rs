//! `GET /`: a page that asks a question about an image and shows where the tokens went. One file, no scripts from elsewhere.

use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::Endpoint;
use crate::openai::engine_labels;
use crate::state::{App, Slot};

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
        document: json!({"get": {
            "operationId": "landing",
            "summary": "A page to try the model",
            "tags": ["operation"],
            "responses": {"200": {
                "description": "HTML",
                "content": {"text/html": {"schema": {"type": "string"}}},
            }},
        }}),
    }
}

async fn handle(State(app): State<App>) -> Response {
    let page = page(&server(&app));
    ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY)], page).into_response()
}

/// What the page needs to know, and everyone may: `/v1/models` may want a key.
fn server(app: &App) -> Value {
    let key = !app.config.auth.api_keys.is_empty();
    let Slot::Ready(serving) = app.slot() else { return json!({"key": key}) };
    let info = serving.engine.info();
    json!({
        "key": key,
        "model": serving.name,
        "precision": engine_labels(info).0,
        "runtime": info.runtime,
        "token_budgets": info.token_budgets,
    })
}

/// The page with these words inside. A name cannot end the element that it stands in.
fn page(server: &Value) -> String {
    let (place, before) = SERVER;
    let text = server.to_string().replace('<', "\\u003c");
    PAGE.replacen(place, &format!("{before}{text}<"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_inside_its_element() {
        let page = page(&json!({"model": "</script><script>alert(1)</script>"}));
        assert!(page.contains(r#"{"model":"\u003c/script>"#), "the page does not hold the name");
        assert_eq!(page.matches("<script").count(), PAGE.matches("<script").count());
    }
}
