//! What an access policy may not say.

use std::net::IpAddr;

use super::{
    AccessPolicySpec, ENTRIES_MAX, ISSUERS_MAX, JWKS_LEN_MAX, RULES_MAX, Rule, TEXT_LEN_MAX,
    TokenCondition, TokenIssuer, What, Who,
};

/// A field that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct AccessPolicyError {
    /// Where it stands, from the spec: `deny/0/from/0/addresses`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

type Checked = Result<(), AccessPolicyError>;

impl AccessPolicySpec {
    /// Checks every field.
    ///
    /// # Errors
    /// The first one found wrong.
    pub fn check(&self) -> Checked {
        entries("services", self.services.len())?;
        entries("namespaces", self.namespaces.len())?;
        if self.deny.len() + self.allow.len() > RULES_MAX {
            return wrong(
                "deny",
                format!("and allow have more than {RULES_MAX} rules"),
            );
        }
        if self.tokens.len() > ISSUERS_MAX {
            return wrong("tokens", format!("has more than {ISSUERS_MAX} issuers"));
        }
        for (list, rules) in [("deny", &self.deny), ("allow", &self.allow)] {
            for (at, rule) in rules.iter().enumerate() {
                rule.check(&format!("{list}/{at}"))?;
            }
        }
        for (at, issuer) in self.tokens.iter().enumerate() {
            issuer.check(&format!("tokens/{at}"))?;
        }
        let ports = self.mtls.iter().flat_map(|rule| &rule.ports);
        let mut ports: Vec<u16> = ports.map(|own| own.port).collect();
        entries("mtls/ports", ports.len())?;
        ports.sort_unstable();
        if let Some(twice) = ports.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong("mtls/ports", format!("names {} twice", twice[0]));
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self, at: &str) -> Checked {
        entries(&format!("{at}/from"), self.from.len())?;
        entries(&format!("{at}/to"), self.to.len())?;
        for (n, from) in self.from.iter().enumerate() {
            from.check(&format!("{at}/from/{n}"))?;
        }
        for (n, to) in self.to.iter().enumerate() {
            to.check(&format!("{at}/to/{n}"))?;
        }
        Ok(())
    }
}

impl Who {
    fn check(&self, at: &str) -> Checked {
        let is_empty = *self == Who::default();
        if is_empty {
            return wrong(at, "says nothing; leave `from` away to mean everybody");
        }
        texts(&format!("{at}/identities"), &self.identities)?;
        texts(&format!("{at}/namespaces"), &self.namespaces)?;
        entries(&format!("{at}/nodes"), self.nodes.len())?;
        entries(&format!("{at}/regions"), self.regions.len())?;
        texts(&format!("{at}/addresses"), &self.addresses)?;
        for identity in &self.identities {
            if !identity.starts_with("spiffe://") {
                let problem = format!("has {identity:?}; a SPIFFE ID begins with spiffe://");
                return wrong(&format!("{at}/identities"), problem);
            }
            stars(&format!("{at}/identities"), identity)?;
        }
        for address in &self.addresses {
            if !is_range(address) {
                let problem = format!("has {address:?}; write 10.0.0.1 or 10.0.0.0/8");
                return wrong(&format!("{at}/addresses"), problem);
            }
        }
        match &self.token {
            Some(token) => token.check(&format!("{at}/token")),
            None => Ok(()),
        }
    }
}

impl TokenCondition {
    fn check(&self, at: &str) -> Checked {
        texts(&format!("{at}/issuers"), &self.issuers)?;
        texts(&format!("{at}/subjects"), &self.subjects)?;
        entries(&format!("{at}/claims"), self.claims.len())?;
        for (claim, values) in &self.claims {
            texts(&format!("{at}/claims/{claim}"), values)?;
            if values.is_empty() {
                return wrong(
                    &format!("{at}/claims/{claim}"),
                    "names no value, so nobody fits",
                );
            }
        }
        Ok(())
    }
}

impl What {
    fn check(&self, at: &str) -> Checked {
        if *self == What::default() {
            return wrong(at, "says nothing; leave `to` away to mean everything");
        }
        texts(&format!("{at}/hosts"), &self.hosts)?;
        texts(&format!("{at}/paths"), &self.paths)?;
        texts(&format!("{at}/methods"), &self.methods)?;
        entries(&format!("{at}/headers"), self.headers.len())?;
        entries(&format!("{at}/ports"), self.ports.len())?;
        for host in &self.hosts {
            let bare = host.strip_prefix("*.").unwrap_or(host);
            if bare.is_empty() || bare.contains('*') || bare.bytes().any(|b| b.is_ascii_uppercase())
            {
                let problem = format!("has {host:?}; write a name in lower case, or *.example");
                return wrong(&format!("{at}/hosts"), problem);
            }
        }
        for path in &self.paths {
            if !path.starts_with('/') {
                return wrong(
                    &format!("{at}/paths"),
                    format!("has {path:?}; begin with /"),
                );
            }
            stars(&format!("{at}/paths"), path)?;
        }
        for method in &self.methods {
            if !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
                return wrong(
                    &format!("{at}/methods"),
                    format!("has {method:?}; write GET"),
                );
            }
        }
        for name in self.headers.keys() {
            header(&format!("{at}/headers"), name)?;
        }
        Ok(())
    }
}

impl TokenIssuer {
    fn check(&self, at: &str) -> Checked {
        text(&format!("{at}/issuer"), &self.issuer)?;
        texts(&format!("{at}/audiences"), &self.audiences)?;
        if self.audiences.is_empty() {
            return wrong(
                &format!("{at}/audiences"),
                "is empty; name whom a token must be for, or one for another would do",
            );
        }
        let ways = [&self.jwks, &self.jwks_file, &self.jwks_url];
        if ways.iter().filter(|way| way.is_some()).count() != 1 {
            return wrong(at, "needs exactly one of jwks, jwks_file and jwks_url");
        }
        if self
            .jwks
            .as_ref()
            .is_some_and(|keys| keys.len() > JWKS_LEN_MAX)
        {
            return wrong(
                &format!("{at}/jwks"),
                format!("has more than {JWKS_LEN_MAX} bytes"),
            );
        }
        if let Some(url) = &self.jwks_url
            && !url.starts_with("https://")
            && !url.starts_with("http://")
        {
            let problem =
                "must begin with https://, or http:// where nobody can change keys on the way";
            return wrong(&format!("{at}/jwks_url"), problem);
        }
        let is_https = self
            .jwks_url
            .as_ref()
            .is_some_and(|url| url.starts_with("https://"));
        if self.jwks_ca_file.is_some() && !is_https {
            let problem = "says how an https:// jwks_url is believed, and there is none";
            return wrong(&format!("{at}/jwks_ca_file"), problem);
        }
        entries(
            &format!("{at}/claims_to_headers"),
            self.claims_to_headers.len(),
        )?;
        for name in self.claims_to_headers.values() {
            header(&format!("{at}/claims_to_headers"), name)?;
            let taken = ["authorization", "host", "cookie"].contains(&name.as_str());
            if taken || name.starts_with("isobar-") {
                let problem = format!("has {name:?}, which is not for claims");
                return wrong(&format!("{at}/claims_to_headers"), problem);
            }
        }
        Ok(())
    }
}

fn wrong(field: &str, problem: impl Into<String>) -> Checked {
    Err(AccessPolicyError {
        field: field.to_owned(),
        problem: problem.into(),
    })
}

fn entries(field: &str, len: usize) -> Checked {
    match len > ENTRIES_MAX {
        true => wrong(field, format!("has {len} entries, at most {ENTRIES_MAX}")),
        false => Ok(()),
    }
}

fn texts(field: &str, all: &[String]) -> Checked {
    entries(field, all.len())?;
    all.iter().try_for_each(|one| text(field, one))
}

fn text(field: &str, text: &str) -> Checked {
    match text.len() {
        0 => wrong(field, "has an empty text"),
        len if len > TEXT_LEN_MAX => wrong(
            field,
            format!("has a text of more than {TEXT_LEN_MAX} bytes"),
        ),
        _ => Ok(()),
    }
}

fn stars(field: &str, text: &str) -> Checked {
    match text.find('*') {
        Some(at) if at + 1 < text.len() => {
            wrong(field, format!("has {text:?}; `*` stands at the end alone"))
        }
        _ => Ok(()),
    }
}

fn header(field: &str, name: &str) -> Checked {
    let is_fine = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    match name.is_empty() || name.len() > 128 || !name.bytes().all(is_fine) {
        true => wrong(
            field,
            format!("has {name:?}; write a header's name in lower case"),
        ),
        false => Ok(()),
    }
}

fn is_range(text: &str) -> bool {
    let (base, bits) = text.split_once('/').unwrap_or((text, ""));
    let Ok(base) = base.parse::<IpAddr>() else {
        return false;
    };
    let whole = if base.is_ipv4() { 32 } else { 128 };
    !text.contains('/') || bits.parse::<u32>().is_ok_and(|bits| bits <= whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        let spec: AccessPolicySpec = serde_json::from_str(json).map_err(|e| e.to_string())?;
        spec.check().map_err(|e| e.to_string())
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_field() {
        let issuer =
            |more: &str| format!(r#"{{"tokens":[{{"issuer":"i","audiences":["a"]{more}}}]}}"#);
        let cases = [
            (r#"{"denny":[]}"#.to_owned(), "denny"),
            (r#"{"deny":[{"from":[{}]}]}"#.to_owned(), "deny/0/from/0"),
            (r#"{"allow":[{"to":[{}]}]}"#.to_owned(), "allow/0/to/0"),
            (
                r#"{"deny":[{"from":[{"addresses":["10.0.0.0/33"]}]}]}"#.to_owned(),
                "addresses",
            ),
            (
                r#"{"deny":[{"from":[{"identities":["a"]}]}]}"#.to_owned(),
                "identities",
            ),
            (
                r#"{"deny":[{"from":[{"identities":["spiffe://*/x"]}]}]}"#.to_owned(),
                "at the end",
            ),
            (r#"{"deny":[{"to":[{"paths":["a"]}]}]}"#.to_owned(), "paths"),
            (
                r#"{"deny":[{"to":[{"paths":["/*/a"]}]}]}"#.to_owned(),
                "at the end",
            ),
            (r#"{"deny":[{"to":[{"hosts":["A"]}]}]}"#.to_owned(), "hosts"),
            (
                r#"{"deny":[{"to":[{"methods":["get"]}]}]}"#.to_owned(),
                "methods",
            ),
            (
                r#"{"deny":[{"to":[{"headers":{"X":"1"}}]}]}"#.to_owned(),
                "headers",
            ),
            (issuer(""), "exactly one"),
            (issuer(r#","jwks":"{}","jwks_file":"/f""#), "exactly one"),
            (issuer(r#","jwks_url":"ftp://a""#), "https://"),
            (issuer(r#","jwks_url":"http://a","jwks_ca_file":"/c""#), "jwks_ca_file"),
            (
                r#"{"mtls":{"mode":"strict","ports":[{"port":1,"mode":"off"},{"port":1,"mode":"strict"}]}}"#.to_owned(),
                "twice",
            ),
            (
                issuer(r#","jwks":"{}","claims_to_headers":{"sub":"authorization"}"#),
                "authorization",
            ),
            (
                r#"{"tokens":[{"issuer":"i","jwks":"{}"}]}"#.to_owned(),
                "audiences",
            ),
            (
                r#"{"allow":[{"from":[{"token":{"claims":{"role":[]}}}]}]}"#.to_owned(),
                "nobody fits",
            ),
        ];
        for (json, word) in cases {
            let error = check(&json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
        check(r#"{"services":["a/b"],"default":"deny","allow":[{"from":[{"token":{}}]}]}"#)
            .unwrap();
        check(&issuer(r#","jwks":"{}","required":true"#)).unwrap();
        check(&issuer(r#","jwks_url":"https://a","jwks_ca_file":"/c""#)).unwrap();
        check(r#"{"mtls":{"mode":"strict","ports":[{"port":7410,"mode":"permissive"}]}}"#).unwrap();
    }
}
