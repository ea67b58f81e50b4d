//! The difference of two values as a JSON patch (RFC 6902).

use serde_json::{Value, json};

/// The operations that make `after` of `before`: none when they are the same. Lists are replaced as a whole.
pub fn difference(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(before, after, "", &mut operations);
    operations
}

fn compare(before: &Value, after: &Value, path: &str, operations: &mut Vec<Value>) {
    if before == after {
        return;
    }
    let (Value::Object(had), Value::Object(has)) = (before, after) else {
        operations.push(json!({"op": "replace", "path": path, "value": after}));
        return;
    };
    for (name, value) in had {
        let path = format!("{path}/{}", escape(name));
        match has.get(name) {
            None => operations.push(json!({"op": "remove", "path": path})),
            Some(next) => compare(value, next, &path, operations),
        }
    }
    for (name, value) in has.iter().filter(|(name, _)| !had.contains_key(*name)) {
        let path = format!("{path}/{}", escape(name));
        operations.push(json!({"op": "add", "path": path, "value": value}));
    }
}

/// RFC 6901, section 3.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
