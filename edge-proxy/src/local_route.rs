//! A route in the proxy's own configuration, written as everywhere else: `kind`, `metadata`, `spec`.
//!
//! It is read key by key and not as a tagged enum, because an enum forgets where in the file it is, and an error must say
//! on which line it stands.

use std::sync::Arc;

use isobar_mesh_api::resource::route::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec};
use isobar_mesh_api::resource::{Metadata, Resource};
use isobar_mesh_api::route::{Route, RouteKind};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The keys of a route. A table of TOML is read in the order of its keys, so `apiVersion` comes before `kind`, and that before `spec`.
const KEYS: &[&str] = &["apiVersion", "kind", "metadata", "spec"];

/// A route of this node alone.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalRoute {
    written: Resource,
    route: Arc<Route>,
}

impl LocalRoute {
    /// The route, checked.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    fn new<E: Error>(written: Resource) -> Result<LocalRoute, E> {
        let route = match &written {
            Resource::HttpRoute { metadata, spec } => Route::from_http(metadata, spec),
            Resource::GrpcRoute { metadata, spec } => Route::from_grpc(metadata, spec),
            Resource::TcpRoute { metadata, spec } => Route::from_tcp(metadata, spec),
            other => return Err(E::custom(format!("{} is not a route", other.kind()))),
        };
        let name = &written.metadata().name;
        let route = route.map_err(|error| E::custom(format!("route {name}: {error}")))?;
        Ok(LocalRoute {
            written,
            route: Arc::new(route),
        })
    }
}

impl Serialize for LocalRoute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LocalRoute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LocalRoute, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

struct Keys;

enum Spec {
    Http(HttpRouteSpec),
    Grpc(GrpcRouteSpec),
    Tcp(TcpRouteSpec),
}

impl<'de> Visitor<'de> for Keys {
    type Value = LocalRoute;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a route with kind, metadata and spec")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LocalRoute, A::Error> {
        let (mut kind, mut metadata, mut spec) = (None::<RouteKind>, None, None);
        let mut version: Option<String> = None;
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), kind) {
                ("apiVersion", None) => version = Some(map.next_value()?),
                ("apiVersion", Some(_)) => {
                    return Err(A::Error::custom("apiVersion must stand before kind"));
                }
                ("kind", _) => {
                    let known = map.next_value::<RouteKind>()?;
                    let can = known.api_versions();
                    if version
                        .as_deref()
                        .is_some_and(|version| !can.contains(&version))
                    {
                        let problem = format!(
                            "apiVersion of {} must be {}",
                            known.as_str(),
                            can.join(" or ")
                        );
                        return Err(A::Error::custom(problem));
                    }
                    kind = Some(known);
                }
                ("metadata", _) => metadata = Some(map.next_value::<Metadata>()?),
                ("spec", Some(RouteKind::Http)) => spec = Some(Spec::Http(map.next_value()?)),
                ("spec", Some(RouteKind::Grpc)) => spec = Some(Spec::Grpc(map.next_value()?)),
                ("spec", Some(RouteKind::Tcp)) => spec = Some(Spec::Tcp(map.next_value()?)),
                ("spec", None) => return Err(A::Error::custom("kind must stand before spec")),
                (other, _) => return Err(A::Error::unknown_field(other, KEYS)),
            }
        }
        let metadata = metadata.ok_or_else(|| A::Error::missing_field("metadata"))?;
        let spec = spec.ok_or_else(|| A::Error::missing_field("spec"))?;
        LocalRoute::new(match spec {
            Spec::Http(spec) => Resource::HttpRoute { metadata, spec },
            Spec::Grpc(spec) => Resource::GrpcRoute { metadata, spec },
            Spec::Tcp(spec) => Resource::TcpRoute { metadata, spec },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        routes: Vec<LocalRoute>,
    }

    const WHOLE: &str = r#"
[[routes]]
spec.hostnames = ["cart.example"]
kind = "HTTPRoute"
metadata = { name = "cart", namespace = "shop" }
[[routes.spec.rules]]
matches = [{ path = { type = "PathPrefix", value = "/v2" } }]
backendRefs = [{ name = "cart", weight = 9 }]

[[routes]]
apiVersion = "gateway.networking.k8s.io/v1"
kind = "GRPCRoute"
metadata = { name = "calls" }
[[routes.spec.rules]]
matches = [{ method = { service = "shop.Cart" } }]
"#;

    #[test]
    fn routes_are_read_from_toml() {
        let file: File = toml::from_str(WHOLE).unwrap();
        let keys: Vec<String> = file
            .routes
            .iter()
            .map(|r| r.route().key().to_string())
            .collect();
        assert_eq!(keys, ["HTTPRoute shop/cart", "GRPCRoute default/calls"]);
        assert_eq!(file.routes[0].route().rules()[0].backend_refs[0].weight, 9);
        let json = serde_json::to_string(&file.routes[0]).unwrap();
        let again: LocalRoute = serde_json::from_str(&json).unwrap();
        assert_eq!(again, file.routes[0]);
    }

    #[test]
    fn examples_in_the_docs_are_read() {
        let docs = include_str!("../../docs/routes.md");
        let blocks = docs.split("```toml\n").skip(1);
        let texts: Vec<&str> = blocks.filter_map(|b| b.split("```").next()).collect();
        assert!(texts.len() >= 2);
        for text in texts {
            let file: Result<File, _> = toml::from_str(text);
            assert!(file.is_ok_and(|file| !file.routes.is_empty()), "{text}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let cases = [
            ("type = \"PathPrefix\"", "type = \"Glob\"", 7, "Glob"),
            ("weight = 9", "wait = 9", 8, "wait"),
            (
                "value = \"/v2\"",
                "value = \"v2\"",
                2,
                "rules/0/matches/0/path/value",
            ),
            ("\"GRPCRoute\"", "\"UDPRoute\"", 12, "UDPRoute"),
            (
                "k8s.io/v1",
                "k8s.io/v1alpha2",
                10,
                "gateway.networking.k8s.io/v1",
            ),
        ];
        for (from, to, line, word) in cases {
            let text = WHOLE.replacen(from, to, 1);
            let error = toml::from_str::<File>(&text).unwrap_err();
            let start = error.span().unwrap().start;
            let found = text[..start].matches('\n').count() + 1;
            assert_eq!(found, line, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
