//! The tables of calls and URLs, against the protocol's own files, the server, and
//! docs/reference/protocol.md.

use super::client::{Connection, bare};
use super::double::serve;
use fugato::error::ErrorKind;
use fugato::server::{HTTP_ROUTES, RPCS};

const REFERENCE: &str = include_str!("../../../../docs/reference/protocol.md");

fn state(done: bool) -> &'static str {
    if done { "done" } else { "unimplemented" }
}

#[test]
fn the_tables_name_every_call_of_the_proto_files() {
    let files = [
        (
            "inference.GRPCInferenceService",
            include_str!("../../../../proto/inference.proto"),
        ),
        (
            "grpc.health.v1.Health",
            include_str!("../../../../proto/health.proto"),
        ),
    ];
    for ((service, text), rpcs) in files.into_iter().zip(RPCS) {
        let declared: Vec<String> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc "))
            .filter_map(|line| line.split_once('('))
            .map(|(name, _)| format!("/{service}/{name}"))
            .collect();
        let listed: Vec<&str> = rpcs.iter().map(|rpc| rpc.path).collect();
        assert_eq!(declared, listed);
    }
}

#[test]
fn the_reference_page_says_what_the_tables_say() {
    let mut rows: Vec<String> = RPCS
        .into_iter()
        .flatten()
        .map(|rpc| format!("| `{}` | {} |", rpc.path, state(rpc.done)))
        .collect();
    rows.extend(HTTP_ROUTES.iter().map(|route| {
        format!(
            "| {} | `{}` | {} |",
            route.method,
            route.path,
            state(route.done)
        )
    }));
    rows.extend(ErrorKind::ALL.iter().map(|kind| {
        let facts = kind.facts();
        format!(
            "| `{}` | {} | {:?} | {} |",
            facts.label,
            facts.http_status,
            facts.grpc_code,
            if facts.retryable { "yes" } else { "no" }
        )
    }));
    let missing: Vec<&String> = rows
        .iter()
        .filter(|row| !REFERENCE.lines().any(|line| line == row.as_str()))
        .collect();
    assert!(missing.is_empty(), "rows to add:\n{missing:#?}");
    let found = REFERENCE
        .lines()
        .filter(|line| {
            line.starts_with("| `") || line.starts_with("| GET") || line.starts_with("| POST")
        })
        .count();
    assert_eq!(found, rows.len(), "rows of things that do not exist");
}

#[tokio::test]
async fn every_url_is_answered_as_the_table_says() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    for route in HTTP_ROUTES {
        let path = route
            .path
            .replace("{name}", "identity")
            .replace("{version}", "1")
            .replace("{repository}", "r");
        let reply = connection.exchange(&bare(route.method, &path)).await;
        if route.done {
            // Without a body a request for inference or to register is a bad one, no region
            // is registered, and every other is good.
            let expected = match path.rsplit('/').next() {
                Some("infer" | "register") => 400,
                Some("status") if path.contains("/systemsharedmemory/region/") => 404,
                _ => 200,
            };
            assert_eq!(reply.status, expected, "{path}");
        } else {
            assert_eq!(reply.status, 501, "{path}");
            let expected = format!("{} {path} is not implemented by this server", route.method);
            assert_eq!(reply.error(), expected);
        }
    }
}
