//! The part of structural schemas that our custom resources use: pruning of unknown fields, defaults, types, ranges, enums; and what an
//! apply looks at before that.

use serde_json::Value;

/// Removes fields that the schema does not know, as the API server does without a word.
pub fn prune(schema: &Value, value: &mut Value) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(fields) => {
            let more = &schema["additionalProperties"];
            let known = schema["properties"].as_object();
            fields.retain(|name, field| {
                let is_meta = ["apiVersion", "kind", "metadata"].contains(&name.as_str())
                    && known.is_some_and(|known| known.contains_key("spec"));
                if is_meta {
                    return true;
                }
                match known.and_then(|known| known.get(name)) {
                    Some(schema) => prune(schema, field),
                    None if more.is_object() => prune(more, field),
                    None => return more == true,
                }
                true
            });
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| prune(&schema["items"], item)),
        _ => {}
    }
}

/// Puts defaults in.
pub fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, of_field) in schema["properties"].as_object().into_iter().flatten() {
                if let (None, Some(default)) = (fields.get(name), of_field.get("default")) {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    fill(of_field, field);
                }
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| fill(&schema["items"], item)),
        _ => {}
    }
}

/// What an apply refuses before the schema is asked: fields that it does not declare, and values of another shape.
pub fn typed(schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let wrong = |wanted: &str| {
        Err(format!(
            "{path}: expected {wanted}, got &value.valueUnstructured{{Value:{value}}}"
        ))
    };
    match (schema["type"].as_str(), value) {
        (_, Value::Null) | (None, _) => Ok(()),
        (Some("object"), Value::Object(fields)) => fields.iter().try_for_each(|(name, field)| {
            let inner = format!("{path}.{name}");
            let more = &schema["additionalProperties"];
            match schema["properties"].get(name) {
                Some(_) if path.is_empty() && name == "metadata" => Ok(()),
                Some(known) => typed(known, field, &inner),
                None if more.is_object() => typed(more, field, &inner),
                None if schema["x-kubernetes-preserve-unknown-fields"] == true => Ok(()),
                None => Err(format!("{inner}: field not declared in schema")),
            }
        }),
        (Some("object"), _) => wrong("map"),
        (Some("array"), Value::Array(items)) => {
            let mut items = items.iter().enumerate();
            items.try_for_each(|(at, item)| typed(&schema["items"], item, &format!("{path}[{at}]")))
        }
        (Some("array"), _) => wrong("list"),
        (Some("string"), value) if !value.is_string() => wrong("string"),
        (Some("boolean"), value) if !value.is_boolean() => wrong("boolean"),
        (Some("integer" | "number"), value) if !value.is_number() => {
            wrong("numeric (int or float)")
        }
        _ => Ok(()),
    }
}

/// Checks a value; the error names its field.
pub fn check(schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    if value.is_null() && schema["nullable"] == true || schema.is_null() {
        return Ok(());
    }
    let wrong = |what: String| Err(format!("{path}: Invalid value: {value}: {what}"));
    let is = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !is {
        return wrong(format!("must be of type {}", schema["type"]));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return wrong(format!("supported values: {}", schema["enum"]));
    }
    if let Some(number) = value.as_f64() {
        let bound = |name: &str| schema[name].as_f64();
        if bound("minimum").is_some_and(|min| number < min) {
            return wrong(format!("should be at least {}", schema["minimum"]));
        }
        if bound("maximum").is_some_and(|max| number > max) {
            return wrong(format!("should be at most {}", schema["maximum"]));
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if value.get(name).is_none() {
            return Err(format!("{path}.{name}: Required value"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let known = schema["properties"].get(name);
        let of_field = known.unwrap_or(&schema["additionalProperties"]);
        if of_field.is_object() {
            check(of_field, field, &format!("{path}.{name}"))?;
        }
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        check(&schema["items"], item, &format!("{path}[{at}]"))?;
    }
    Ok(())
}
