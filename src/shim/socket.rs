//! A nonblocking Unix stream socket whose messages may carry descriptors. Knows nothing of frames.

use super::sys::{EAGAIN, EINTR, EINVAL, EMFILE};
use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const AF_UNIX: c_int = 1;
const SOCK_STREAM: c_int = 1;
const SOCK_NONBLOCK: c_int = 0o4000;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const SO_PEERCRED: c_int = 17;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_CTRUNC: c_int = 0x8;
const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;
/// The kernel's own limit on descriptors in one message.
const SCM_MAX_FD: usize = 253;
const PATH_BYTES: usize = 108;

#[repr(C)]
struct Address {
    family: u16,
    path: [u8; PATH_BYTES],
}

#[repr(C)]
struct IoVec {
    base: *mut c_void,
    length: usize,
}

#[repr(C)]
struct Message {
    name: *mut c_void,
    name_length: u32,
    vectors: *mut IoVec,
    vector_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ControlHeader {
    length: usize,
    level: c_int,
    kind: c_int,
}

/// Aligned as the kernel wants it, with room for one full SCM_RIGHTS message and another kind.
#[repr(C, align(8))]
struct Control([u8; 2048]);

const HEADER_BYTES: usize = size_of::<ControlHeader>();
const _: () = assert!(2048 > HEADER_BYTES + SCM_MAX_FD * 4);

unsafe extern "C" {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const Address, length: u32) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, option: c_int, value: *mut c_void, length: *mut u32) -> c_int;
    fn recvmsg(fd: c_int, message: *mut Message, flags: c_int) -> isize;
    fn send(fd: c_int, bytes: *const c_void, length: usize, flags: c_int) -> isize;
}

/// Connects without waiting: a listener whose backlog is full is an error like any other.
pub fn connect_to(path: &[u8]) -> Result<OwnedFd, i32> {
    let mut address = Address { family: AF_UNIX as u16, path: [0; PATH_BYTES] };
    // One byte is left for the terminating NUL.
    let room = address.path.get_mut(..path.len()).filter(|room| room.len() < PATH_BYTES).ok_or(EINVAL)?;
    room.copy_from_slice(path);
    // SAFETY: takes integers only.
    let fd = unsafe { socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(super::sys::errno());
    }
    // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the address has the layout and the length that are passed.
    match unsafe { connect(fd.as_raw_fd(), &address, size_of::<Address>() as u32) } {
        0 => Ok(fd),
        _ => Err(super::sys::errno()),
    }
}

/// The user at the other end when it began to listen.
pub fn peer_uid(socket: &OwnedFd) -> Result<u32, i32> {
    let mut credentials = [0_u32; 3];
    let mut length = size_of_val(&credentials) as u32;
    // SAFETY: struct ucred is three 32-bit numbers (pid, uid, gid), and that is the room given.
    let result = unsafe {
        getsockopt(socket.as_raw_fd(), SOL_SOCKET, SO_PEERCRED, credentials.as_mut_ptr().cast(), &mut length)
    };
    if result == 0 { Ok(credentials[1]) } else { Err(super::sys::errno()) }
}

/// Sends what the socket takes now; 0 when it takes nothing.
pub fn send_some(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, i32> {
    // SAFETY: the buffer has the length that is passed.
    let sent = unsafe { send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), MSG_NOSIGNAL) };
    match sent {
        0.. => Ok(sent as usize),
        _ => match super::sys::errno() {
            EAGAIN | EINTR => Ok(0),
            other => Err(other),
        },
    }
}

/// What one read of the socket brought.
pub enum Received {
    Nothing,
    Closed,
    Bytes(usize),
}

/// Reads once. Descriptors that come along are appended, close-on-exec.
pub fn receive_some(socket: &OwnedFd, to: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<Received, i32> {
    let mut control = Control([0; 2048]);
    let mut vector = IoVec { base: to.as_mut_ptr().cast(), length: to.len() };
    let mut message = Message {
        name: std::ptr::null_mut(),
        name_length: 0,
        vectors: &mut vector,
        vector_count: 1,
        control: control.0.as_mut_ptr().cast(),
        control_length: control.0.len(),
        flags: 0,
    };
    // SAFETY: every pointer in the message has the room that is given beside it and outlives the call.
    let got = unsafe { recvmsg(socket.as_raw_fd(), &mut message, MSG_CMSG_CLOEXEC) };
    if got < 0 {
        return match super::sys::errno() {
            EAGAIN | EINTR => Ok(Received::Nothing),
            other => Err(other),
        };
    }
    // First take ownership of all of them, so that none leaks on the error path.
    let filled = message.control_length.min(control.0.len());
    collect(&control.0[..filled], descriptors);
    if message.flags & MSG_CTRUNC != 0 {
        return Err(EMFILE);
    }
    Ok(if got == 0 { Received::Closed } else { Received::Bytes(got as usize) })
}

fn collect(mut control: &[u8], descriptors: &mut Vec<OwnedFd>) {
    while control.len() >= HEADER_BYTES {
        // SAFETY: there are enough bytes, every pattern is a valid header, and the read does not need alignment.
        let header = unsafe { control.as_ptr().cast::<ControlHeader>().read_unaligned() };
        let Some(data) = control.get(HEADER_BYTES..header.length) else { return };
        if header.level == SOL_SOCKET && header.kind == SCM_RIGHTS {
            for number in data.as_chunks::<4>().0 {
                // SAFETY: the kernel has just installed this descriptor for us, and nothing else owns it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) });
            }
        }
        let Some(rest) = control.get(header.length.next_multiple_of(8)..) else { return };
        control = rest;
    }
}
