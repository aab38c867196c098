//! The fields of the three messages, written and read.

use std::time::Duration;

use super::{Beats, HelloError, LONGEST, Resume};

const MAGIC: &[u8; 8] = b"everlink";
const HEAD: usize = 14;
/// Unknown flags among these are not to be ignored.
const MUST_KNOW: u8 = 0b1111;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Refusal = 3,
}

/// One message that is wholly there.
#[derive(Debug)]
pub struct Message<'a> {
    pub kind: Kind,
    pub versions: (u8, u8),
    pub flags: u8,
    /// From the magic to the end.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the head, and waits for the rest. `None`: need more bytes.
    pub fn whole(bytes: &'a [u8], due: &[Kind]) -> Result<Option<Self>, HelloError> {
        if bytes.iter().zip(MAGIC).any(|(byte, due)| byte != due) {
            return Err(HelloError::Magic);
        }
        let Some(&kind) = bytes.get(8) else { return Ok(None) };
        let kind = *due.iter().find(|due| **due as u8 == kind).ok_or(HelloError::Kind(kind))?;
        let Some(&[lowest, highest, flags, ref length @ ..]) = bytes.get(9..HEAD) else { return Ok(None) };
        if lowest == 0 || lowest > highest {
            return Err(HelloError::Malformed("a range of versions that is none"));
        }
        let length = length.iter().rev().fold(0u16, |all, &byte| all << 8 | u16::from(byte));
        if !(HEAD..=LONGEST).contains(&usize::from(length)) {
            return Err(HelloError::Length(length));
        }
        let message = bytes.get(..usize::from(length));
        Ok(message.map(|bytes| Self { kind, versions: (lowest, highest), flags, bytes }))
    }

    pub fn check_flags(&self, known: u8) -> Result<(), HelloError> {
        let unknown = self.flags & MUST_KNOW & !known;
        if unknown == 0 { Ok(()) } else { Err(HelloError::Flags(unknown)) }
    }

    /// What stands between the head and the last `proofs` bytes.
    pub fn fields(&self, proofs: usize) -> Result<Fields<'a>, HelloError> {
        let end = self.bytes.len().saturating_sub(proofs);
        self.bytes.get(HEAD..end).map(Fields).ok_or(TOO_SHORT)
    }
}

const TOO_SHORT: HelloError = HelloError::Malformed("its length ends before its last field");

/// Fields yet to be read. What is left at the end is reserved space.
#[derive(Debug)]
pub struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], HelloError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, HelloError> {
        self.take().map(u8::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, HelloError> {
        self.take().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, HelloError> {
        self.take().map(u64::from_le_bytes)
    }

    pub fn millis(&mut self) -> Result<Duration, HelloError> {
        self.u32().map(|millis| Duration::from_millis(millis.into()))
    }

    pub fn beats(&mut self) -> Result<Beats, HelloError> {
        Ok(Beats { interval: self.millis()?, timeout: self.millis()?, misses: self.u32()? })
    }

    pub fn resume(&mut self) -> Result<Resume, HelloError> {
        Ok(Resume { deadline: self.millis()?, buffer: self.u64()? })
    }

    pub fn text(&mut self) -> Result<String, HelloError> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(TOO_SHORT)?;
        self.0 = rest;
        let text = str::from_utf8(text).map_err(|_| HelloError::Malformed("a text that is not UTF-8"))?;
        if text.contains(char::is_control) {
            return Err(HelloError::Malformed("a text with control characters"));
        }
        Ok(text.to_owned())
    }
}

/// A message being written. Its length is set when it is complete, but before it is proven.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Bytes of proofs still to come.
    proofs: usize,
}

impl Writer {
    pub fn new(kind: Kind, versions: (u8, u8), flags: u8, proofs: usize) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([kind as u8, versions.0, versions.1, flags, 0, 0]);
        Self { bytes, proofs }
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whole milliseconds, at most 49 days.
    pub fn millis(&mut self, duration: Duration) {
        self.put(&u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub fn beats(&mut self, beats: &Beats) {
        self.millis(beats.interval);
        self.millis(beats.timeout);
        self.put(&beats.misses.to_le_bytes());
    }

    pub fn resume(&mut self, resume: &Resume) {
        self.millis(resume.deadline);
        self.put(&resume.buffer.to_le_bytes());
    }

    /// At most 255 bytes of it, cut between two characters, without control characters: what the other end would refuse
    /// is not sent.
    pub fn text(&mut self, text: &str) {
        let mut kept = String::new();
        for character in text.chars().filter(|character| !character.is_control()) {
            if kept.len() + character.len_utf8() > usize::from(u8::MAX) {
                break;
            }
            kept.push(character);
        }
        self.bytes.push(u8::try_from(kept.len()).unwrap_or(u8::MAX));
        self.put(kept.as_bytes());
    }

    /// Appends the proof of all that was written before it.
    pub fn prove(&mut self, proof: impl FnOnce(&[u8]) -> [u8; super::PROOF_LENGTH]) {
        self.set_length();
        let proof = proof(&self.bytes);
        self.put(&proof);
        self.proofs = self.proofs.saturating_sub(proof.len());
    }

    fn set_length(&mut self) {
        // The longest message we write has two texts of 255 bytes: some 700 bytes in all.
        let length = u16::try_from(self.bytes.len() + self.proofs).unwrap_or(u16::MAX).to_le_bytes();
        self.bytes[HEAD - 2..HEAD].copy_from_slice(&length);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.set_length();
        self.bytes
    }
}

/// Whether [`Writer::text`] would send it as it is.
pub fn fits(text: &str) -> bool {
    text.len() <= usize::from(u8::MAX) && !text.contains(char::is_control)
}
