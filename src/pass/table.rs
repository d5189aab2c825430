//! The table of passes: how each is named, explained and made from its options.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::Pass;

/// An entry of the pass table.
pub struct PassInfo {
    pub name: &'static str,
    pub summary: &'static str,
    pub kind: PassKind,
}

pub enum PassKind {
    Pass {
        make: MakePass,
        schema: fn() -> schemars::Schema,
    },
    /// A name for several passes, which repeat in this order until none changes anything.
    Group(&'static [PassInfo]),
}

/// Makes a pass from the options that were given; returns it with all its options.
type MakePass = fn(Map<String, Json>) -> serde_json::Result<(Box<dyn Pass>, Map<String, Json>)>;

/// One option of a pass, as `onnxshrink passes NAME` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct PassOption {
    pub name: String,
    pub text: String,
    /// None where it must be given.
    pub default: Option<Json>,
    /// The values it takes, where they are few, each with its text.
    pub choices: Vec<(String, String)>,
}

impl PassInfo {
    pub const fn of<P>(name: &'static str, summary: &'static str) -> PassInfo
    where
        P: Pass + DeserializeOwned + Serialize + JsonSchema + 'static,
    {
        PassInfo {
            name,
            summary,
            kind: PassKind::Pass {
                make: |options| {
                    let pass = serde_json::from_value::<P>(Json::Object(options))?;
                    let resolved = match serde_json::to_value(&pass)? {
                        Json::Object(options) => options,
                        _ => Map::new(),
                    };
                    Ok((Box::new(pass), resolved))
                },
                schema: || schemars::schema_for!(P),
            },
        }
    }

    pub const fn group(name: &'static str, summary: &'static str, passes: &'static [PassInfo]) -> PassInfo {
        PassInfo { name, summary, kind: PassKind::Group(passes) }
    }

    /// The options of the pass, none for a group.
    pub fn options(&self) -> Vec<PassOption> {
        let PassKind::Pass { make, schema } = &self.kind else { return Vec::new() };
        let schema = schema();
        let defaults = make(Map::new()).map(|(_, resolved)| resolved).unwrap_or_default();
        let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return Vec::new() };
        let option = |(name, property): (&String, &Json)| PassOption {
            name: name.clone(),
            text: text_of(property),
            default: defaults.get(name).or_else(|| property.get("default")).cloned(),
            choices: choices(property, &schema),
        };
        properties.iter().map(option).collect()
    }
}

/// Every pass of `table`, those in groups included, in order.
pub fn passes(table: &'static [PassInfo]) -> impl Iterator<Item = &'static PassInfo> {
    table.iter().flat_map(|info| match info.kind {
        PassKind::Pass { .. } => std::slice::from_ref(info),
        PassKind::Group(members) => members,
    })
}

fn text_of(property: &Json) -> String {
    let text = property.get("description").and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The variants of an enum without data, behind a `$ref` or in place.
fn choices(property: &Json, schema: &schemars::Schema) -> Vec<(String, String)> {
    let mut named = vec![property];
    named.extend(["anyOf", "allOf"].iter().filter_map(|key| property.get(key)?.as_array()).flatten());
    let resolved = named.into_iter().map(|node| match node.get("$ref").and_then(Json::as_str) {
        Some(path) => path.strip_prefix('#').and_then(|path| schema.as_value().pointer(path)).unwrap_or(node),
        None => node,
    });
    let mut found = Vec::new();
    for node in resolved {
        for name in node.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            found.push((name.to_string(), String::new()));
        }
        for variant in node.get("oneOf").and_then(Json::as_array).into_iter().flatten() {
            if let Some(name) = variant.get("const").and_then(Json::as_str) {
                found.push((name.to_string(), text_of(variant)));
            }
            for name in variant.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
                found.push((name.to_string(), text_of(variant)));
            }
        }
    }
    found
}
