//! Issuers' keys as this node has them: from the policy, from files, over HTTPS or HTTP.
//!
//! One task reads files when they change and fetches lists when they are due; requests look at what is there and never wait. A
//! list that cannot be read again stays in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use isobar_mesh_api::resource::access_policy::{JWKS_LEN_MAX, TokenIssuer};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::access::Claims;
use crate::jwt::{self, Keys, TokenError};
use crate::proxy::Proxy;
use crate::roots::{Roots, Wire, read_up_to};

/// How often a list is fetched again.
pub const FETCH_EVERY: Duration = Duration::from_secs(300);
/// The soonest that it is fetched again because a token names an unknown key, or because it could not be fetched.
pub const FETCH_REST: Duration = Duration::from_secs(10);
/// Longest fetch.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most tokens that are remembered as checked; when there are more, all are checked anew.
pub const CHECKED_MAX: usize = 4096;

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Text(String),
    File(String),
    /// An address, and the file of the roots that it is believed by.
    Url(String, Option<String>),
}

impl Place {
    fn of(issuer: &TokenIssuer) -> Option<Place> {
        let text = issuer.jwks.clone().map(Place::Text);
        let file = || issuer.jwks_file.clone().map(Place::File);
        let url = || {
            let url = issuer.jwks_url.clone();
            url.map(|url| Place::Url(url, issuer.jwks_ca_file.clone()))
        };
        text.or_else(file).or_else(url)
    }
}

/// All keys, and which tokens were checked with them.
#[derive(Debug, Default)]
pub struct Jwks {
    keys: ArcSwap<BTreeMap<Place, Arc<Keys>>>,
    /// A key was asked for in vain.
    due: Notify,
    /// Places whose keys a token asked for in vain.
    missed: Mutex<Vec<Place>>,
    checked: Mutex<BTreeMap<[u8; 32], Checked>>,
}

#[derive(Debug, Clone)]
struct Checked {
    claims: Arc<Claims>,
    keys: Arc<Keys>,
    audiences: Vec<String>,
    ends_s: u64,
}

/// When a place was last read.
#[derive(Debug, Default)]
struct Read {
    tried: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
}

impl Jwks {
    /// What a token says, if one of the issuers made it.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn check(
        &self,
        token: &str,
        issuers: &[Arc<TokenIssuer>],
    ) -> Result<Arc<Claims>, TokenError> {
        let name = jwt::issuer(token)?;
        let issuer = issuers.iter().find(|issuer| issuer.issuer == name);
        let issuer = issuer.ok_or(TokenError::Issuer)?;
        let place = Place::of(issuer).ok_or(TokenError::NoKeys)?;
        let keys = self.keys.load().get(&place).cloned();
        let keys = keys.ok_or(TokenError::NoKeys)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let digest: [u8; 32] = digest.as_ref().try_into().unwrap_or_default();
        let now_s = crate::skew::seconds(SystemTime::now());
        let known = self.lock_checked().get(&digest).cloned();
        let holds = |checked: &Checked| {
            Arc::ptr_eq(&checked.keys, &keys)
                && now_s < checked.ends_s
                && checked.audiences == issuer.audiences
        };
        if let Some(checked) = known.filter(holds) {
            return Ok(checked.claims);
        }
        let claims = jwt::check(token, &name, &issuer.audiences, &keys).inspect_err(|error| {
            if *error == TokenError::Key {
                self.miss(place);
            }
        })?;
        let claims = Arc::new(claims);
        let ends_s = claims.get("exp").and_then(serde_json::Value::as_u64);
        let mut all = self.lock_checked();
        if all.len() >= CHECKED_MAX {
            all.clear();
        }
        let checked = Checked {
            claims: Arc::clone(&claims),
            keys,
            audiences: issuer.audiences.clone(),
            ends_s: ends_s.unwrap_or(0),
        };
        all.insert(digest, checked);
        Ok(claims)
    }

    fn miss(&self, place: Place) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if !missed.contains(&place) {
            missed.push(place);
            self.due.notify_one();
        }
    }

    fn lock_checked(&self) -> std::sync::MutexGuard<'_, BTreeMap<[u8; 32], Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps keys up to date. Runs until it is dropped.
pub async fn run(proxy: Arc<Proxy>) {
    let mut reads: BTreeMap<Place, Read> = BTreeMap::new();
    loop {
        tokio::select! {
            () = proxy.jwks.due.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let places = places(&proxy);
        reads.retain(|place, _| places.contains(place));
        let missed = {
            let mut missed = proxy
                .jwks
                .missed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *missed)
        };
        let before = proxy.jwks.keys.load_full();
        let mut keys = BTreeMap::new();
        let mut is_new = before.len() != places.len();
        for place in places {
            let known = before.get(&place).cloned();
            let read = reads.entry(place.clone()).or_default();
            let is_missed = missed.contains(&place);
            let fresh = fresh(&place, read, known.is_some(), is_missed).await;
            is_new |= fresh.is_some();
            if let Some(now) = fresh.map(Arc::new).or(known) {
                keys.insert(place, now);
            }
        }
        if is_new {
            proxy.jwks.keys.store(Arc::new(keys));
        }
    }
}

/// Where the keys of all policies in force are.
fn places(proxy: &Proxy) -> Vec<Place> {
    let routes = proxy.table.load();
    let guards = routes.services.iter().filter_map(|s| s.guard.as_ref());
    let mut places: Vec<Place> = guards
        .flat_map(|guard| &guard.issuers)
        .filter_map(|issuer| Place::of(issuer))
        .collect();
    places.sort();
    places.dedup();
    places
}

/// The keys of a place, when they are due to be read and can be.
async fn fresh(place: &Place, read: &mut Read, is_known: bool, is_missed: bool) -> Option<Keys> {
    let text = match place {
        Place::Text(_) if is_known => return None,
        Place::Text(text) => text.clone().into_bytes(),
        Place::File(path) => {
            let stamp = std::fs::metadata(path).ok();
            let stamp = stamp.and_then(|meta| Some((meta.modified().ok()?, meta.len())));
            if stamp.is_some() && read.stamp == stamp {
                return None;
            }
            let is_first = read.tried.is_none();
            let is_same = read.stamp == stamp;
            read.tried = Some(Instant::now());
            read.stamp = stamp;
            match read_file(Path::new(path)).await {
                Ok(text) => text,
                Err(_) if is_same && !is_first => return None,
                Err(error) => return failed(path, &error),
            }
        }
        Place::Url(url, ca_file) => {
            let rested = |rest| read.tried.is_none_or(|at| at.elapsed() >= rest);
            let is_due = rested(FETCH_EVERY) || ((!is_known || is_missed) && rested(FETCH_REST));
            if !is_due {
                return None;
            }
            read.tried = Some(Instant::now());
            match tokio::time::timeout(FETCH_WAIT_MAX, fetch(url, ca_file.as_deref())).await {
                Ok(Ok(text)) => text,
                Ok(Err(error)) => return failed(url, &error),
                Err(_) => return failed(url, &"no answer in time"),
            }
        }
    };
    let from = match place {
        Place::Text(_) => "the policy",
        Place::File(at) | Place::Url(at, _) => at,
    };
    match Keys::read(&text) {
        Ok(keys) => {
            tracing::info!(
                from,
                is_empty = keys.is_empty(),
                "an issuer's keys were read"
            );
            Some(keys)
        }
        Err(error) => failed(from, &error),
    }
}

fn failed(from: &str, error: &dyn std::fmt::Display) -> Option<Keys> {
    tracing::warn!(from, %error, "an issuer's keys could not be read; those known stay in force");
    None
}

async fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_up_to(&path, JWKS_LEN_MAX as u64));
    read.await.map_err(std::io::Error::other)?
}

type FetchError = Box<dyn std::error::Error + Send + Sync>;

async fn fetch(url: &str, ca_file: Option<&str>) -> Result<Vec<u8>, FetchError> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().ok_or("the address names no host")?.clone();
    let is_https = uri.scheme_str() == Some("https");
    let port = authority
        .port_u16()
        .unwrap_or(if is_https { 443 } else { 80 });
    let tcp = TcpStream::connect(format!("{}:{port}", authority.host())).await?;
    let stream: Box<dyn Wire> = match is_https {
        false => Box::new(tcp),
        true => {
            let roots = Roots::new(ca_file.map(PathBuf::from));
            let connected = roots.connect(authority.host(), tcp).await;
            Box::new(connected.map_err(|error| crate::chain(&error))?)
        }
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(http::header::HOST, authority.as_str())
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("the answer is {}", response.status()).into());
        }
        let body = Limited::new(response.into_body(), JWKS_LEN_MAX).collect();
        Ok(body.await?.to_bytes().to_vec())
    };
    // The connection ends when the answer is read, or with the time for it.
    tokio::pin!(answer, connection);
    let mut is_open = true;
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            _ = &mut connection, if is_open => is_open = false,
        }
    }
}
