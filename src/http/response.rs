//! One answer, and the bytes of its head.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use super::head::Refusal;
use crate::clock;

pub const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Cow<'static, [u8]>,
    /// Headers beside those that every answer has.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { status, content_type, body: body.into(), headers: Vec::new() }
    }

    /// One line (or some) for a person or a probe.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self::new(status, TEXT, text.into_bytes())
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer to a request that was refused; `None`: close without one.
    pub fn refusal(refusal: &Refusal) -> Option<Self> {
        Some(match refusal {
            Refusal::BadRequest(why) => Self::text(400, *why),
            Refusal::BodyTooLarge => Self::text(413, "a body may have 64 KiB here, and none is ever needed"),
            Refusal::LineTooLong => Self::text(414, "the request line is longer than 8 KiB"),
            Refusal::UnknownCoding => Self::text(415, "this coding of the body is not known here"),
            Refusal::HeadTooLarge => Self::text(431, "the head is larger than 16 KiB or has more than 64 headers"),
            Refusal::NotHttp => return None,
        })
    }

    /// Status line and headers. Nothing here may be kept by a cache, guessed at by a browser, framed, or read by
    /// another site's page.
    pub fn head(&self, close: bool, now: SystemTime) -> String {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n",
            self.status,
            reason(self.status),
            clock::http_date(now),
            self.content_type,
            self.body.len(),
        );
        for (name, value) in &self.headers {
            // Writing into a String cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if close {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_complete() {
        let response = Response::text(404, "no").with("Vary", "Accept");
        assert_eq!(
            response.head(true, SystemTime::UNIX_EPOCH),
            "HTTP/1.1 404 Not Found\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/plain; \
             charset=utf-8\r\nContent-Length: 3\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nVary: Accept\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn every_refusal_but_a_strange_protocol_is_answered() {
        let status = |refusal| Response::refusal(&refusal).map(|response| response.status);
        assert_eq!(status(Refusal::BadRequest("")), Some(400));
        assert_eq!(status(Refusal::BodyTooLarge), Some(413));
        assert_eq!(status(Refusal::LineTooLong), Some(414));
        assert_eq!(status(Refusal::UnknownCoding), Some(415));
        assert_eq!(status(Refusal::HeadTooLarge), Some(431));
        assert_eq!(status(Refusal::NotHttp), None);
    }
}
