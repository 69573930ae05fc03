//! The OpenAPI 3.1 document of the API, made from the table of endpoints. `docs/api/v1.json` is a copy of it.

use serde_json::{Map, Value, json};

use crate::endpoints::{ENDPOINTS, Endpoint};
use crate::problem;
use crate::schemas;

/// Version of the API in the document.
const VERSION: &str = "1.0.0";

/// The whole document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        if let Some(methods) = path.as_object_mut() {
            methods.insert(endpoint.method.to_lowercase(), operation(endpoint));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Xyl",
            "version": VERSION,
            "description": "The API of the daemon xyld, on the socket /run/xyl/api.sock. A client ignores members that it does not know. See docs/api.md.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas::all()},
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut answers = Map::new();
    let (content, schema) = endpoint.answer;
    for status in endpoint.statuses {
        let mut answer = json!({
            "description": described(*status),
            "content": {content: {"schema": reference(schema)}},
        });
        if *status == 202 {
            let location = json!({
                "Location": {"description": "Path of the operation", "schema": {"type": "string"}},
            });
            schemas::put(&mut answer, "headers", location);
        }
        answers.insert(status.to_string(), answer);
    }
    answers.insert(
        "default".to_owned(),
        json!({
            "description": "The call has failed",
            "content": {problem::CONTENT_TYPE: {"schema": reference("Problem")}},
        }),
    );
    let mut operation = json!({
        "operationId": id_of(endpoint),
        "summary": endpoint.summary,
        "x-role": endpoint.role.word(),
        "parameters": parameters(endpoint),
        "responses": answers,
    });
    if let Some((content, schema)) = endpoint.body {
        let body = json!({
            "required": schema != "Action",
            "content": {content: {"schema": reference(schema)}},
        });
        schemas::put(&mut operation, "requestBody", body);
    }
    operation
}

fn described(status: u16) -> &'static str {
    match status {
        202 => "It is under way",
        _ => "Done",
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// A name for the call in generated clients: method and path as words.
fn id_of(endpoint: &Endpoint) -> String {
    let path = endpoint.path.replace(['/', ':', '-', '.'], "_");
    let words = path.split(['_', '{', '}']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.filter(|word| *word != "v1").collect();
    format!("{}_{}", endpoint.method.to_lowercase(), words.join("_"))
}

fn parameters(endpoint: &Endpoint) -> Value {
    let parts = endpoint.path.split('/');
    let names = parts.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let of_path = names.map(
        |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}),
    );
    let of_query = endpoint.query.iter().map(|(name, meaning)| {
        json!({"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}})
    });
    let is_action = endpoint.body.is_some_and(|(_, schema)| schema == "Action");
    let changes = is_action || endpoint.method == "PUT";
    let of_change = changes.then(|| {
        [
            json!({
                "name": "Idempotency-Key", "in": "header", "required": is_action,
                "description": "A UUID that the client has made for this request. A repeated one gets the first answer",
                "schema": {"type": "string", "format": "uuid"},
            }),
            json!({
                "name": "Prefer", "in": "header",
                "description": "wait=N: seconds to wait for the result, 10 without it, 60 at most",
                "schema": {"type": "string"},
            }),
        ]
    });
    of_path
        .chain(of_query)
        .chain(of_change.into_iter().flatten())
        .collect()
}
