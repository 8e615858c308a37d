//! Clients that go away, and servers that stop.

use super::client::{Connection, post};
use super::double::{Ended, Served, options, serve, serve_with, soon};
use super::grpc::{client, floats};
use fugato::server::{Drained, Server, ServerOptions};
use std::time::Duration;

fn held() -> Vec<u8> {
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;
    post("/v2/models/held/infer", json, None)
}

#[tokio::test]
async fn an_http_client_that_goes_away_drops_its_request() {
    let mut served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    connection.send(&held()).await;
    soon(served.events.began.recv()).await.expect("it begins");
    drop(connection);
    assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Dropped));
}

#[tokio::test]
async fn a_grpc_client_that_goes_away_drops_its_request() {
    let mut served = serve().await;
    let mut grpc = client(&served).await;
    let call = tokio::spawn(async move { grpc.model_infer(floats("held", &[1.0])).await });
    soon(served.events.began.recv()).await.expect("it begins");
    call.abort();
    assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Dropped));
}

#[tokio::test]
async fn a_cancelled_grpc_call_drops_its_request_and_no_other() {
    let mut served = serve().await;
    let grpc = client(&served).await;
    let start = |mut grpc: super::grpc::Client| {
        tokio::spawn(async move { grpc.model_infer(floats("held", &[1.0])).await })
    };
    let (kept, cancelled) = (start(grpc.clone()), start(grpc.clone()));
    for _ in 0..2 {
        soon(served.events.began.recv()).await.expect("both begin");
    }
    cancelled.abort();
    assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Dropped));
    served.double.gate.add_permits(1);
    soon(kept).await.expect("no panic").expect("a reply");
}

#[tokio::test]
async fn a_grpc_deadline_ends_the_call_in_the_server_too() {
    let mut served = serve().await;
    let mut grpc = client(&served).await;
    let mut request = tonic::Request::new(floats("held", &[1.0]));
    request.set_timeout(Duration::from_millis(50));
    let error = soon(grpc.model_infer(request))
        .await
        .expect_err("it is held");
    assert!(
        matches!(
            error.code(),
            tonic::Code::Cancelled | tonic::Code::DeadlineExceeded
        ),
        "{error}"
    );
    assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Dropped));
    let left = served.double.last().left.expect("a deadline");
    assert!(left.as_millis_f64() <= 50.0, "{left}");
}

/// Starts a held request over each protocol, and asks the server to stop.
async fn held_in_both(
    served: &mut Served,
) -> (
    Connection,
    tokio::task::JoinHandle<Result<tonic::Response<super::grpc::Reply>, tonic::Status>>,
) {
    let mut connection = Connection::open(served.at.http).await;
    connection.send(&held()).await;
    let mut grpc = client(served).await;
    let call = tokio::spawn(async move { grpc.model_infer(floats("held", &[1.0])).await });
    for _ in 0..2 {
        soon(served.events.began.recv()).await.expect("both begin");
    }
    served.shutdown.cancel();
    (connection, call)
}

#[tokio::test]
async fn a_stop_lets_accepted_requests_finish_and_takes_no_more() {
    let mut served = serve().await;
    let mut idle = Connection::open(served.at.http).await;
    let (mut connection, call) = held_in_both(&mut served).await;
    assert!(soon(idle.reply()).await.is_none(), "idle connections close");
    served.double.gate.add_permits(2);
    let reply = soon(connection.reply())
        .await
        .expect("its reply still comes");
    assert_eq!(reply.status, 200);
    soon(call)
        .await
        .expect("no panic")
        .expect("its reply still comes");
    let drained = soon(served.server).await.expect("no panic");
    assert_eq!(drained, Drained { connections_cut: 0 });
    for at in [served.at.http, served.at.grpc, served.at.metrics] {
        let at = at.expect("it was served");
        tokio::net::TcpStream::connect(at)
            .await
            .expect_err("nobody listens");
    }
}

#[tokio::test]
async fn what_comes_after_the_farewell_is_thrown_away_and_resets_nothing() {
    let served = serve().await;
    let (request, _) = super::http::counting(1);
    let mut late = Connection::open(served.at.http).await;
    assert_eq!(late.exchange(&request).await.status, 200);
    served.shutdown.cancel();
    soon(late.end()).await.expect("the server says farewell");
    // A reset would fail the write after the one that it answers.
    for _ in 0..10 {
        late.send(&request).await;
    }
    drop(late);
    let drained = soon(served.server).await.expect("no panic");
    assert_eq!(drained, Drained { connections_cut: 0 });
}

#[tokio::test]
async fn what_the_server_did_not_read_does_not_reset_the_last_reply() {
    let mut served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    connection.send(&held()).await;
    soon(served.events.began.recv()).await.expect("it begins");
    // More than is answered until the server hears that it is to stop, and more than it reads
    // ahead of a reply: some is unread when it closes.
    for _ in 0..1000 {
        connection.send(&held()).await;
    }
    served.shutdown.cancel();
    served.double.gate.add_permits(1001);
    let reply = soon(connection.reply()).await.expect("its reply comes");
    assert_eq!(reply.status, 200);
    soon(connection.end()).await.expect("no reset");
    drop(connection);
    let drained = soon(served.server).await.expect("no panic");
    assert_eq!(drained, Drained { connections_cut: 0 });
}

#[tokio::test]
async fn a_client_that_never_closes_does_not_hold_up_a_stop() {
    let served = serve().await;
    let (request, _) = super::http::counting(1);
    let mut idle = Connection::open(served.at.http).await;
    assert_eq!(idle.exchange(&request).await.status, 200);
    served.shutdown.cancel();
    let drained = soon(served.server).await.expect("no panic");
    assert_eq!(drained, Drained { connections_cut: 0 });
    soon(idle.end()).await.expect("the server says farewell");
}

#[tokio::test]
async fn a_client_in_the_listen_queue_at_a_stop_is_answered() {
    let served = serve().await;
    let at = served.at.http.expect("HTTP is served");
    // The server's tasks run on this thread, so nobody accepts before the stop.
    let waiting = std::net::TcpStream::connect(at).expect("the server listens");
    served.shutdown.cancel();
    waiting.set_nonblocking(true).expect("a socket");
    let waiting = tokio::net::TcpStream::from_std(waiting).expect("a socket");
    let mut waiting = Connection::over(waiting);
    let (request, _) = super::http::counting(1);
    waiting.send(&request).await;
    let reply = soon(waiting.reply()).await.expect("it is answered");
    assert_eq!(reply.status, 200);
    soon(waiting.end()).await.expect("no reset");
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let mut served = serve_with(ServerOptions {
        drain_timeout: Duration::from_millis(20),
        ..options()
    })
    .await;
    let (mut connection, call) = held_in_both(&mut served).await;
    let drained = soon(&mut served.server).await.expect("no panic");
    assert_eq!(drained, Drained { connections_cut: 2 });
    assert!(soon(connection.reply()).await.is_none());
    soon(call).await.expect("no panic").expect_err("it was cut");
    for _ in 0..2 {
        assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Dropped));
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let served = serve().await;
    let error = Server::bind(ServerOptions {
        grpc: served.at.http,
        ..options()
    })
    .await
    .expect_err("HTTP has that port");
    let at = served.at.http.expect("HTTP is served");
    assert_eq!(error.to_string(), format!("cannot serve gRPC on {at}"));
}

#[tokio::test]
async fn further_clients_wait_for_a_place() {
    let served = serve_with(ServerOptions {
        max_connections: 1,
        ..options()
    })
    .await;
    let (request, _) = super::http::counting(1);
    let mut first = Connection::open(served.at.http).await;
    assert_eq!(first.exchange(&request).await.status, 200);
    let mut second = Connection::open(served.at.http).await;
    second.send(&request).await;
    // The one place is the first client's until it leaves.
    assert_eq!(first.exchange(&request).await.status, 200);
    drop(first);
    let reply = soon(second.reply()).await.expect("its turn comes");
    assert_eq!(reply.status, 200);
}
