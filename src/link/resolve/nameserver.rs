//! A nameserver for tests: UDP and TCP on one loopback port, answers by a closure, questions on record.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// What to say about a name and a record type.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Those of the family asked for.
    Addresses(Vec<IpAddr>),
    Code(ResponseCode),
    Silence,
    /// Those addresses, but so much later, and only over UDP.
    Late(Duration, Vec<IpAddr>),
}

impl Reply {
    pub(crate) fn addresses(texts: &[&str]) -> Self {
        Self::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect())
    }
}

type Rule = Arc<dyn Fn(&str, RecordType) -> Reply + Send + Sync>;

pub(crate) struct Nameserver {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Nameserver {
    /// On a free port of 127.0.0.1.
    pub(crate) async fn start(rule: impl Fn(&str, RecordType) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), rule).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        rule: impl Fn(&str, RecordType) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(address).await.unwrap();
            // The same port may be taken for TCP: then another one.
            match TcpListener::bind(udp.local_addr().unwrap()).await {
                Ok(tcp) => break (udp, tcp),
                Err(error) if address.port() != 0 => panic!("{address}: {error}"),
                Err(_) => {}
            }
        };
        let address = udp.local_addr().unwrap();
        let rule: Rule = Arc::new(rule);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let tasks = vec![
            tokio::spawn(serve_udp(udp, rule.clone(), asked.clone())),
            tokio::spawn(serve_tcp(tcp, rule, asked.clone())),
        ];
        Self { address, asked, tasks }
    }

    /// The names asked for with this type, in order of arrival.
    pub(crate) fn asked(&self, record: RecordType) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(_, asked)| *asked == record).map(|(name, _)| name.clone()).collect()
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn serve_udp(socket: UdpSocket, rule: Rule, asked: Arc<Mutex<Vec<(String, RecordType)>>>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        if let Some((mut answer, late)) = answer(&buffer[..length], &rule, &asked) {
            if answer.to_vec().unwrap().len() > 512 {
                answer.answers.clear();
                answer.metadata.truncation = true;
            }
            let socket = socket.clone();
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            });
        }
    }
}

async fn serve_tcp(listener: TcpListener, rule: Rule, asked: Arc<Mutex<Vec<(String, RecordType)>>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (rule, asked) = (rule.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut buffer = vec![0; length.into()];
                stream.read_exact(&mut buffer).await.unwrap();
                if let Some((answer, _)) = answer(&buffer, &rule, &asked) {
                    let answer = answer.to_vec().unwrap();
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
    }
}

fn answer(question: &[u8], rule: &Rule, asked: &Mutex<Vec<(String, RecordType)>>) -> Option<(Message, Duration)> {
    let mut message = Message::from_vec(question).unwrap();
    let query = message.queries[0].clone();
    let name = query.name().to_string();
    asked.lock().unwrap().push((name.clone(), query.query_type()));
    message.metadata.message_type = MessageType::Response;
    let (addresses, late) = match rule(&name, query.query_type()) {
        Reply::Silence => return None,
        Reply::Code(code) => {
            message.metadata.response_code = code;
            (Vec::new(), Duration::ZERO)
        }
        Reply::Addresses(addresses) => (addresses, Duration::ZERO),
        Reply::Late(late, addresses) => (addresses, late),
    };
    let wanted = addresses.into_iter().filter(|ip| ip.is_ipv4() == (query.query_type() == RecordType::A));
    message.answers = wanted.map(|ip| Record::from_rdata(query.name().clone(), 60, RData::from(ip))).collect();
    Some((message, late))
}
