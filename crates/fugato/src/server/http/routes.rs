//! The table of URLs.

use super::{Refusal, Request};
use crate::error::{Fault, InferError};
use axum::Router;
use axum::routing::{MethodRouter, get, post};

/// One URL of the protocol, with its method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path, with `{..}` where a name stands.
    pub path: &'static str,
    /// Whether it is answered; `false` is answered 501, by name.
    pub done: bool,
}

const fn done(method: &'static str, path: &'static str) -> HttpRoute {
    HttpRoute {
        method,
        path,
        done: true,
    }
}

const fn unimplemented(method: &'static str, path: &'static str) -> HttpRoute {
    HttpRoute {
        method,
        path,
        done: false,
    }
}

/// Every URL of Triton's protocol and extensions on the HTTP port.
pub const HTTP_ROUTES: [HttpRoute; 50] = [
    done("GET", "/v2"),
    done("GET", "/v2/health/live"),
    done("GET", "/v2/health/ready"),
    done("GET", "/v2/models/{name}"),
    done("GET", "/v2/models/{name}/ready"),
    done("GET", "/v2/models/{name}/config"),
    done("POST", "/v2/models/{name}/infer"),
    done("GET", "/v2/models/{name}/versions/{version}"),
    done("GET", "/v2/models/{name}/versions/{version}/ready"),
    done("GET", "/v2/models/{name}/versions/{version}/config"),
    done("POST", "/v2/models/{name}/versions/{version}/infer"),
    done("GET", "/v2/models/{name}/explain/{id}"),
    done("GET", "/v2/models/{name}/profile"),
    done("GET", "/v2/models/{name}/versions/{version}/profile"),
    done("GET", "/v2/models/{name}/settings"),
    done("POST", "/v2/models/{name}/settings"),
    done("GET", "/v2/scheduler"),
    done("POST", "/v2/scheduler"),
    done("GET", "/v2/timeline"),
    done("POST", "/v2/repository/index"),
    done("GET", "/v2/models/stats"),
    done("GET", "/v2/models/{name}/stats"),
    done("GET", "/v2/models/{name}/versions/{version}/stats"),
    unimplemented("POST", "/v2/models/{name}/generate"),
    unimplemented("POST", "/v2/models/{name}/generate_stream"),
    unimplemented("POST", "/v2/models/{name}/versions/{version}/generate"),
    unimplemented(
        "POST",
        "/v2/models/{name}/versions/{version}/generate_stream",
    ),
    done("GET", "/v2/models/{name}/trace/setting"),
    done("POST", "/v2/models/{name}/trace/setting"),
    done("GET", "/v2/models/{name}/versions/{version}/trace/setting"),
    done("POST", "/v2/models/{name}/versions/{version}/trace/setting"),
    done("POST", "/v2/repository/models/{name}/load"),
    done("POST", "/v2/repository/models/{name}/unload"),
    unimplemented("POST", "/v2/repository/{repository}/index"),
    unimplemented("POST", "/v2/repository/{repository}/models/{name}/load"),
    unimplemented("POST", "/v2/repository/{repository}/models/{name}/unload"),
    done("GET", "/v2/systemsharedmemory/status"),
    done("POST", "/v2/systemsharedmemory/unregister"),
    done("GET", "/v2/systemsharedmemory/region/{name}/status"),
    done("POST", "/v2/systemsharedmemory/region/{name}/register"),
    done("POST", "/v2/systemsharedmemory/region/{name}/unregister"),
    done("GET", "/v2/cudasharedmemory/status"),
    done("POST", "/v2/cudasharedmemory/unregister"),
    unimplemented("GET", "/v2/cudasharedmemory/region/{name}/status"),
    unimplemented("POST", "/v2/cudasharedmemory/region/{name}/register"),
    done("POST", "/v2/cudasharedmemory/region/{name}/unregister"),
    done("GET", "/v2/trace/setting"),
    done("POST", "/v2/trace/setting"),
    done("GET", "/v2/logging"),
    done("POST", "/v2/logging"),
];

/// The methods of a path of the table, as a message lists them.
pub(super) fn methods_of(path: &str) -> String {
    let methods: Vec<&str> = HTTP_ROUTES
        .iter()
        .filter(|route| route.path == path)
        .map(|route| route.method)
        .collect();
    methods.join(" or ")
}

/// Adds the URLs that are answered 501.
pub(super) fn add_unimplemented<A: Clone + Send + Sync + 'static>(router: Router<A>) -> Router<A> {
    HTTP_ROUTES
        .iter()
        .filter(|route| !route.done)
        .fold(router, |router, route| {
            let answer: MethodRouter<A> = if route.method == "POST" {
                post(refuse)
            } else {
                get(refuse)
            };
            router.route(route.path, answer)
        })
}

async fn refuse(request: Request) -> Refusal {
    let what = format!("{} {}", request.method(), request.uri().path());
    InferError::from(Fault::Unimplemented { what }).into()
}
