//! Checks the results of `tempra bench` against their JSON schema.

use serde_json::Value;
use tempra::bench::report::SCHEMA_JSON;

/// Checks a result against the schema: the part of JSON Schema that the schema uses.
pub fn obeys(value: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA_JSON).unwrap();
    check(&schema, &schema, value, "result");
    let mut wrong = value.clone();
    wrong["ops"][0]["seconds"]["median"] = "fast".into();
    assert!(std::panic::catch_unwind(|| check(&schema, &schema, &wrong, "wrong")).is_err());
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        return check(root, root.pointer(name.trim_start_matches('#')).unwrap(), value, at);
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    assert!(kinds.is_empty() || kinds.iter().any(|k| is(k)), "{at}: {value} is none of {kinds:?}");
    assert!(schema.get("const").is_none_or(|c| c == value), "{at}: {value}");
    assert!(schema["enum"].as_array().is_none_or(|all| all.contains(value)), "{at}: {value}");
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(object.contains_key(name.as_str().unwrap()), "{at}: no {name}");
        }
        for (name, value) in object {
            match schema["properties"].get(name) {
                Some(of) => check(root, of, value, &format!("{at}.{name}")),
                None if schema["additionalProperties"].is_object() => {
                    check(root, &schema["additionalProperties"], value, &format!("{at}.{name}"));
                }
                None => {
                    assert_ne!(schema["additionalProperties"], false, "{at}: {name} is not in the schema")
                }
            }
        }
    }
    for item in value.as_array().into_iter().flatten().filter(|_| schema.get("items").is_some()) {
        check(root, &schema["items"], item, &format!("{at}[]"));
    }
}
