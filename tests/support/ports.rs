//! Ports for what is started in a process of its own, and listens a little later.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Below those that an operating system gives to whoever connects without asking for one.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port on which nothing listens at this moment, and which no other call in this process was given.
pub fn free() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random()));
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
