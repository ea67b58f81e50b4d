use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// The first bytes of a real client that asks for `name`.
fn first_bytes(name: &'static str) -> Vec<u8> {
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message in records of at most `len` bytes.
fn in_records(bytes: &[u8], len: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let mut record = vec![HANDSHAKE, 3, 1];
        record.extend((part.len() as u16).to_be_bytes());
        record.extend(part);
        record
    };
    bytes[RECORD_HEAD_LEN..]
        .chunks(len)
        .flat_map(record)
        .collect()
}

fn named(name: &str) -> Result<Hello, HelloError> {
    Ok(Hello::Whole {
        server_name: Some(name.to_owned()),
    })
}

#[test]
fn a_real_client_is_understood() {
    assert_eq!(
        parse(&first_bytes("db.Example.com")),
        named("db.example.com")
    );
    // An address is not sent as a name.
    let unnamed = Hello::Whole { server_name: None };
    assert_eq!(parse(&first_bytes("127.0.0.1")), Ok(unnamed));
}

#[test]
fn what_is_not_a_hello() {
    let whole = first_bytes("db.example");
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        parse(&bytes)
    };
    assert_eq!(parse(b"GET / HTTP/1.1"), Err(HelloError::NotTls));
    assert_eq!(parse(b"\x16\x02"), Err(HelloError::NotTls));
    assert_eq!(changed(5, 2), Err(HelloError::Broken), "a server's message");
    assert_eq!(changed(6, 1), Err(HelloError::Broken), "too long");
    assert_eq!(
        changed(3, 0xff),
        Err(HelloError::Broken),
        "too long a record"
    );
    let at = whole
        .windows(10)
        .position(|part| part == b"db.example")
        .unwrap();
    assert_eq!(changed(at, b'/'), Err(HelloError::Broken), "no host name");
    let mut endless = in_records(&whole, 1);
    endless.truncate(20);
    while endless.len() < HELLO_LEN_MAX {
        endless.extend([HANDSHAKE, 3, 1, 0, 1, 0]);
    }
    assert!(parse(&endless).is_err() || matches!(parse(&endless), Ok(Hello::Whole { .. })));
}

proptest! {
    #[test]
    fn pieces_and_records_do_not_matter(len in 1..600_usize, behind in any::<Vec<u8>>()) {
        let records = in_records(&first_bytes("db.example"), len);
        for part in 0..records.len() {
            prop_assert_eq!(parse(&records[..part]), Ok(Hello::Incomplete));
        }
        prop_assert_eq!(parse(&[&records[..], &behind].concat()), named("db.example"));
    }

    #[test]
    fn any_bytes_are_read(at in 0..600_usize, noise in any::<Vec<u8>>(), bytes in any::<Vec<u8>>()) {
        let _ = parse(&bytes);
        let mut changed = first_bytes("db.example");
        for (place, noise) in changed.iter_mut().skip(at).zip(noise) {
            *place = noise;
        }
        let _ = parse(&changed);
    }
}
