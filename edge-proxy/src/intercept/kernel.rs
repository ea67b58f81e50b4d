//! Redirecting rules, told to the kernel itself over netlink: in a container there is no `nft`.
//!
//! One batch (nf_tables takes all of it or nothing): the table away, the table anew, its chain, a rule for each port. What `nft list
//! ruleset` shows of it afterwards is what `nft` would have made of [`super::Rules::nft`]. Numbers are those of
//! `linux/netfilter/nf_tables.h`.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{InterceptError, Redirect, TABLE};

/// Longest wait for the kernel's answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest answer that is read at once, in bytes.
const ANSWER_LEN_MAX: usize = 16 * 1024;

const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
/// Of addresses of both families.
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const ERROR: u16 = 2;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const NESTED: u16 = 0x8000;
/// The register that values go through.
const REGISTER: u32 = 1;
const CHAIN: &str = "output";

/// Puts the redirections into force in the network that this process is in.
///
/// # Errors
/// The kernel says no; it usually wants `CAP_NET_ADMIN`.
pub(super) fn apply(redirects: &[Redirect], exempt_uid: u32) -> Result<(), InterceptError> {
    let (batch, last) = batch(redirects, exempt_uid);
    tell(&batch, last).map_err(InterceptError::Kernel)
}

fn tell(batch: &[u8], last: u32) -> io::Result<()> {
    let domain = Domain::from(AF_NETLINK);
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    let sent = (&socket).write(batch)?;
    if sent != batch.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut bytes = vec![0; ANSWER_LEN_MAX];
    loop {
        let len = (&socket).read(&mut bytes)?;
        for (kind, sequence, body) in messages(&bytes[..len]) {
            let Some(code) = body.first_chunk().filter(|_| kind == ERROR) else {
                continue;
            };
            match i32::from_ne_bytes(*code) {
                0 if sequence == last => return Ok(()),
                0 => {}
                code => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
            }
        }
    }
}

/// Kind, sequence number and body of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let head: &[u8; 16] = bytes.first_chunk()?;
        let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let sequence = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        let body = bytes.get(16..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}

/// The whole batch, and the number of the message whose acknowledgement says that it was taken.
fn batch(redirects: &[Redirect], exempt_uid: u32) -> (Vec<u8>, u32) {
    let mut out = Batch::default();
    out.message(BATCH_BEGIN, REQUEST, 0, NFTABLES, &[]);
    let table = attribute(1, &text(TABLE));
    // Made first, so that there is one to delete.
    out.message(NEW_TABLE, REQUEST | CREATE, FAMILY_INET, 0, &table);
    out.message(DELETE_TABLE, REQUEST, FAMILY_INET, 0, &table);
    out.message(NEW_TABLE, REQUEST | CREATE, FAMILY_INET, 0, &table);
    // Output, at the priority of destination NAT; what no rule wants goes its way.
    let hook = [number(1, 3), number(2, (-100_i32).cast_unsigned())].concat();
    let chain = [
        table.clone(),
        attribute(3, &text(CHAIN)),
        attribute(NESTED | 4, &hook),
        number(5, 1),
        attribute(7, &text("nat")),
    ];
    let create = REQUEST | CREATE;
    out.message(NEW_CHAIN, create, FAMILY_INET, 0, &chain.concat());
    let mut rules = vec![
        [meta(10), equals(&exempt_uid.to_ne_bytes()), leave()].concat(),
        [
            fib_destination_type(),
            equals(&2_u32.to_ne_bytes()),
            leave(),
        ]
        .concat(),
    ];
    rules.extend(redirects.iter().map(redirect));
    for (at, rule) in rules.iter().enumerate() {
        let ack = if at + 1 == rules.len() { ACK } else { 0 };
        let place = [table.clone(), attribute(2, &text(CHAIN))].concat();
        let body = [place, attribute(NESTED | 4, rule)].concat();
        let flags = REQUEST | CREATE | APPEND | ack;
        out.message(NEW_RULE, flags, FAMILY_INET, 0, &body);
    }
    let last = out.sequence;
    out.message(BATCH_END, REQUEST, 0, NFTABLES, &[]);
    (out.bytes, last)
}

fn redirect(redirect: &Redirect) -> Vec<u8> {
    let mut rule = Vec::new();
    if redirect.ipv4_alone {
        rule.extend([meta(15), equals(&[FAMILY_IPV4])].concat());
    }
    rule.extend([meta(16), equals(&[6])].concat());
    if let Some(port) = redirect.port {
        // The transport header's second field.
        let load = [
            number(1, REGISTER),
            number(2, 2),
            number(3, 2),
            number(4, 2),
        ];
        rule.extend(expression("payload", &load.concat()));
        rule.extend(equals(&port.to_be_bytes()));
    }
    let port = attribute(NESTED | 2, &attribute(1, &redirect.to.to_be_bytes()));
    let load = [number(1, REGISTER), port].concat();
    rule.extend(expression("immediate", &load));
    // The port is said: NF_NAT_RANGE_PROTO_SPECIFIED.
    rule.extend(expression(
        "redir",
        &[number(1, REGISTER), number(3, 2)].concat(),
    ));
    rule
}

/// Loads what is known of a packet beside its bytes.
fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER), number(2, key)].concat())
}

/// Loads what kind of address a packet goes to.
fn fib_destination_type() -> Vec<u8> {
    let fields = [number(1, REGISTER), number(2, 3), number(3, 2)];
    expression("fib", &fields.concat())
}

/// Goes on if what was loaded is this.
fn equals(value: &[u8]) -> Vec<u8> {
    let value = attribute(NESTED | 3, &attribute(1, value));
    expression("cmp", &[number(1, REGISTER), number(2, 0), value].concat())
}

/// Leaves the chain.
fn leave() -> Vec<u8> {
    let code = number(1, (-5_i32).cast_unsigned());
    let verdict = attribute(NESTED | 2, &attribute(NESTED | 2, &code));
    expression("immediate", &[number(1, 0), verdict].concat())
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    let whole = [attribute(1, &text(name)), attribute(NESTED | 2, data)];
    attribute(NESTED | 1, &whole.concat())
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Values are a few rules long.
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut out = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.sequence += 1;
        let len = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body);
    }
}
