//! Packet sockets: whole frames of one interface, with what the kernel notes of checksums and segments still to be made.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Both buffers, in bytes: 50 ms at 1 Gbit/s several times over.
const BUFFER: libc::c_int = 64 << 20;

/// Opens one that does not block. Wants CAP_NET_RAW and CAP_NET_ADMIN.
pub fn open(interface: &str) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: takes and returns plain numbers.
    let fd = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol.into())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was made just now and that nobody else owns.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let set = |level, option, value: libc::c_int| {
        let (at, size) = (std::ptr::from_ref(&value).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: `value` lives through the call, which reads `size` bytes of it.
        match unsafe { libc::setsockopt(fd, level, option, at, size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
    set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER)?;
    let name = CString::new(interface)?;
    // SAFETY: `name` ends with a zero and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros is an address of no family, and every field is a number.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as i32;
    let (at, size) = (std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t);
    // SAFETY: `address` lives through the call, which reads `size` bytes of it.
    match unsafe { libc::bind(fd, at, size) } {
        0 => Ok(owned),
        _ => Err(io::Error::last_os_error()),
    }
}
