//! Schemas of names and spans, whose written form is a text. Only built for those who publish schemas (feature `schema`).

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::names::{AccountName, NodeId, RegionName, ServiceName, SiteName};
use crate::resource::Span;
use crate::resource::weight_policy::{TimeOfDay, Timestamp};

macro_rules! text {
    ($($type:ident),*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string"})
            }
        }
    )*};
}

text!(
    AccountName,
    TimeOfDay,
    Timestamp,
    NodeId,
    RegionName,
    ServiceName,
    SiteName,
    Span
);
