use crate::config;
use std::time::Instant;
pub enum Event {
    None,
    Beat,
    Missed,
    Dead,
}
pub struct LineMode;
impl LineMode {
    pub fn new(_s: Vec<u8>, _e: config::Expect, _h: &config::Heartbeat, _n: Instant, _seed: u64) -> Self {
        Self
    }
    pub fn from_client(&mut self, _n: Instant, b: &[u8], o: &mut Vec<u8>) {
        o.extend_from_slice(b)
    }
    pub fn from_server(&mut self, _n: Instant, b: &[u8], o: &mut Vec<u8>) {
        o.extend_from_slice(b)
    }
    pub fn client_ended(&mut self, _n: Instant) {}
    pub fn server_ended(&mut self, _n: Instant, _o: &mut Vec<u8>) {}
    pub fn tick(&mut self, _n: Instant, _a: &mut Vec<u8>, _b: &mut Vec<u8>) -> Event {
        Event::None
    }
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
    pub fn retime(&mut self, _h: &config::Heartbeat) {}
}
