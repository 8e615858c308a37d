//! A client that writes HTTP as bytes, so that it can also write it wrong.

use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A reply as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    /// The header lines.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The value of a header; empty where it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The message of an error reply.
    pub(crate) fn error(&self) -> String {
        let json = self.json();
        let members = json.as_object().expect("an error is an object");
        assert_eq!(members.len(), 1, "{json}");
        json["error"].as_str().expect("an error is text").to_owned()
    }
}

/// One connection.
pub(crate) struct Connection<C = TcpStream> {
    stream: C,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(at: Option<SocketAddr>) -> Self {
        let at = at.expect("the port is served");
        let stream = TcpStream::connect(at).await.expect("the server listens");
        Self::over(stream)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Connection<C> {
    /// Speaks over what is connected already.
    pub(crate) fn over(stream: C) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("the server reads");
        // TLS keeps what the socket did not take at once until it is told to flush.
        self.stream.flush().await.expect("the server reads");
    }

    /// The next reply; `None` where the server closed the connection.
    pub(crate) async fn reply(&mut self) -> Option<Reply> {
        let head_end = loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            if !self.read_more().await {
                return None;
            }
        };
        let rest = self.buffer.split_off(head_end);
        let head =
            String::from_utf8(std::mem::replace(&mut self.buffer, rest)).expect("a head is text");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut reply = Reply {
            status: status.expect("a status line has a code"),
            head,
            body: Vec::new(),
        };
        let length: usize = reply.header("content-length").parse().unwrap_or(0);
        while self.buffer.len() < length {
            assert!(self.read_more().await, "cut short: {reply:?}");
        }
        let rest = self.buffer.split_off(length);
        reply.body = std::mem::replace(&mut self.buffer, rest);
        Some(reply)
    }

    async fn read_more(&mut self) -> bool {
        self.stream
            .read_buf(&mut self.buffer)
            .await
            .is_ok_and(|count| count > 0)
    }

    /// Reads to the end that the server makes.
    ///
    /// # Errors
    /// Where the connection ends otherwise, as by a reset.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        self.stream.read_to_end(&mut self.buffer).await.map(drop)
    }

    /// Sends one request and reads its reply.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Reply {
        self.send(request).await;
        self.reply().await.expect("the server replies")
    }
}

/// The bytes of a request without a body.
pub(crate) fn bare(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

/// The bytes of a request whose body is JSON, then `binary`; the header that separates
/// them is there where `binary` is.
pub(crate) fn post(path: &str, json: &str, binary: Option<&[u8]>) -> Vec<u8> {
    let separator = match binary {
        Some(_) => format!("inference-header-content-length: {}\r\n", json.len()),
        None => String::new(),
    };
    let binary = binary.unwrap_or_default();
    let length = json.len() + binary.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\n{separator}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), json.as_bytes(), binary].concat()
}
