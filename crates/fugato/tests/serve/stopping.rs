//! Ends: of the server by signals, and of clients.

use crate::requests::{IDENTITY, IMAGES_BYTES, ONE_FLOAT, RESNET, images};
use crate::server::{Connection, Server};
use std::io::Write;
use std::time::{Duration, Instant};

/// Six slow requests that the server has accepted.
fn six_in_flight(server: &Server) -> Vec<Connection> {
    let (json_length, body) = images(8);
    let mut connections: Vec<Connection> = (0..6).map(|_| server.connect()).collect();
    for connection in &mut connections {
        connection.send(
            RESNET,
            &[("inference-header-content-length", &json_length)],
            &body,
        );
    }
    let model = r#"model="resnet18",version="1""#;
    let patience = Instant::now() + Duration::from_secs(60);
    let accepted = || {
        let held = server.metric(&format!("fugato_request_held_bytes{{{model}}}"));
        held / IMAGES_BYTES
            + server.metric(&format!(r#"fugato_requests_total{{{model},outcome="ok"}}"#))
    };
    while accepted() < 6.0 {
        assert!(
            Instant::now() < patience,
            "{} of 6 requests are accepted",
            accepted()
        );
    }
    connections
}

#[test]
fn sigterm_answers_what_was_accepted_and_takes_nothing_new() {
    let server = Server::start(&[]);
    let mut connections = six_in_flight(&server);
    server.signal("TERM");
    for connection in &mut connections[1..] {
        let (status, reply) = connection.receive();
        assert_eq!(status, 200, "an accepted request was lost: {reply:.200}");
    }
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_repeated_signal_loses_nothing() {
    // As `timeout -s TERM` sends it: to the process, then to its group; and as a terminal
    // and a supervisor both pass on one key press.
    for repeated in ["TERM", "INT"] {
        let server = Server::start(&[]);
        let mut connections = six_in_flight(&server);
        server.signal("TERM");
        server.signal(repeated);
        for connection in &mut connections {
            let (status, reply) = connection.receive();
            assert_eq!(status, 200, "an accepted request was lost: {reply:.200}");
        }
        assert_eq!(server.wait(), Some(0), "TERM, then {repeated}");
    }
}

#[test]
fn a_person_who_insists_does_not_wait_for_the_drain() {
    let mut server = Server::start(&[]);
    // A request that never arrives in full holds the drain.
    let mut connection = server.connect();
    let head = format!("POST {IDENTITY} HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n{{");
    connection
        .stream
        .get_mut()
        .write_all(head.as_bytes())
        .expect("the server reads");
    server.post(IDENTITY, ONE_FLOAT);
    server.signal("INT");
    let patience = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(status) = server.child.try_wait().expect("the child can be asked") {
            break status;
        }
        assert!(Instant::now() < patience, "SIGINT is ignored for 60 s");
        server.signal("INT");
    };
    assert_eq!(ended.code(), Some(130));
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = Server::start(&[]);
    let (json_length, body) = images(8);
    let headers = [("inference-header-content-length", json_length.as_str())];
    for _ in 0..6 {
        let mut connection = server.connect();
        connection.send(RESNET, &headers, &body);
        drop(connection);
    }
    // What is left in the end holds nothing, and the next request is served.
    let mut connection = server.connect();
    connection.send(RESNET, &headers, &body);
    assert_eq!(connection.receive().0, 200);
    let model = r#"{model="resnet18",version="1"}"#;
    let patience = Instant::now() + Duration::from_secs(30);
    while server.metric(&format!("fugato_request_held_bytes{model}")) > 0.0 {
        assert!(
            Instant::now() < patience,
            "bytes of clients that went away are held"
        );
    }
    let ended =
        server.metric(r#"fugato_requests_total{model="resnet18",version="1",outcome="ok"}"#);
    assert!(
        ended < 7.0,
        "all {ended} requests were run to the end for nobody"
    );
    server.signal("INT");
    assert_eq!(server.wait(), Some(0));
}
