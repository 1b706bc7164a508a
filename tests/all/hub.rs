//! Downloads, from a server on this machine that answers as the Hub does.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::tempdir;
use tempra::error::Kind;
use tempra::models::source::{Env, resolve_in};

const COMMIT: &str = "8b3219a92973c328a8e22fadcfa821b5dc75636a";

/// What the server answers: status, extra header lines, body, and how much of the body it sends.
#[derive(Clone)]
struct Answer(u16, String, Vec<u8>, usize);

fn ok(body: impl Into<Vec<u8>>) -> Answer {
    let body = body.into();
    let len = body.len();
    Answer(200, String::new(), body, len)
}

type Requests = Arc<Mutex<Vec<(String, bool)>>>;

/// Serves until the test ends; returns the endpoint and, for each request, its path and whether it bore a
/// token.
fn serve(routes: impl FnOnce(u16) -> HashMap<String, Answer>) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = routes(port);
    let requests = Requests::default();
    let log = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
            let Some(path) = head.first().and_then(|l| l.split(' ').nth(1)) else { continue };
            let token = head.iter().any(|l| l.eq_ignore_ascii_case("authorization: Bearer secret"));
            log.lock().unwrap().push((path.to_string(), token));
            let Answer(status, extra, body, sent) =
                routes.get(path).cloned().unwrap_or(Answer(404, String::new(), vec![], 0));
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent]));
        }
    });
    (format!("http://127.0.0.1:{port}"), requests)
}

/// One F32 tensor of one element, by the specification.
fn weights() -> Vec<u8> {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    [(header.len() as u64).to_le_bytes().as_slice(), header, &1f32.to_le_bytes()].concat()
}

fn routes(files: &[&str], port: u16) -> HashMap<String, Answer> {
    let list: Vec<_> = files.iter().map(|f| serde_json::json!({"rfilename": f})).collect();
    let info = serde_json::json!({"sha": COMMIT, "siblings": list}).to_string();
    let mut routes = HashMap::from([("/api/models/org/name/revision/main".to_string(), ok(info))]);
    for file in files {
        routes.insert(format!("/org/name/resolve/{COMMIT}/{file}"), ok(file.as_bytes()));
    }
    // Large files are elsewhere.
    let elsewhere = format!("Location: http://localhost:{port}/cdn\r\n");
    routes.insert(format!("/org/name/resolve/{COMMIT}/model.safetensors"), Answer(302, elsewhere, vec![], 0));
    routes.insert("/cdn".into(), ok(weights()));
    routes
}

fn env(endpoint: &str, cache: &Path, offline: bool) -> Env {
    Env { cache: Some(cache.into()), offline, endpoint: endpoint.into(), token: Some("secret".into()) }
}

#[test]
fn a_model_comes_once_and_its_token_goes_nowhere_else() {
    let dir = tempdir().unwrap();
    let files = [
        "README.md",
        "../evil.json",
        "1_Pooling/config.json",
        "added_tokens.json",
        "config_sentence_transformers.json",
        "onnx/config.json",
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
        "vocab.txt",
    ];
    let (endpoint, requests) = serve(|port| routes(&files, port));
    let e = resolve_in("org/name", &env(&endpoint, dir.path(), true)).unwrap_err().to_string();
    assert!(e.contains("HF_HUB_OFFLINE") && requests.lock().unwrap().is_empty(), "{e}");

    let env = env(&endpoint, dir.path(), false);
    let model = resolve_in("org/name", &env).unwrap();
    assert_eq!(model, dir.path().join("models--org--name/snapshots").join(COMMIT));
    let mut names: Vec<_> =
        fs::read_dir(&model).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    // All that changes what is computed, and nothing else.
    let expected = [
        "1_Pooling",
        "added_tokens.json",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
    ];
    assert_eq!(names, expected);
    assert_eq!(fs::read_to_string(model.join("1_Pooling/config.json")).unwrap(), "1_Pooling/config.json");
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), weights());
    assert_eq!(fs::read_to_string(dir.path().join("models--org--name/refs/main")).unwrap(), COMMIT);
    for (path, token) in requests.lock().unwrap().drain(..) {
        assert_eq!(token, path != "/cdn", "{path}");
    }
    assert_eq!(resolve_in("org/name", &env).unwrap(), model);
    assert!(requests.lock().unwrap().is_empty(), "the second time it is there");
}

#[test]
fn what_comes_in_part_or_not_at_all_is_no_model() {
    let fails = |change: &dyn Fn(&mut HashMap<String, Answer>), say: &str| {
        let dir = tempdir().unwrap();
        let (endpoint, _) = serve(|port| {
            let mut routes = routes(&["config.json", "model.safetensors"], port);
            change(&mut routes);
            routes
        });
        let e = resolve_in("org/name", &env(&endpoint, dir.path(), false)).unwrap_err();
        assert!(e.kind() == Kind::Model && e.to_string().contains(say), "{e}");
        assert!(!dir.path().join("models--org--name/refs/main").exists());
        let offline = resolve_in("org/name", &env(&endpoint, dir.path(), true));
        assert!(offline.is_err(), "an incomplete copy is never taken for the model");
        let snapshot = dir.path().join("models--org--name/snapshots").join(COMMIT);
        let left = fs::read_dir(snapshot).into_iter().flatten().flatten();
        assert!(left.map(|e| e.file_name()).all(|n| n == "config.json"));
    };
    fails(&|r| r.clear(), "404");
    fails(&|r| _ = r.remove("/cdn"), "404");
    fails(&|r| _ = r.insert("/cdn".into(), Answer(200, String::new(), weights(), 30)), "cannot download");
    fails(&|r| _ = r.insert("/cdn".into(), ok(weights()[..64].to_vec())), "truncated");
    fails(&|r| _ = r.insert("/cdn".into(), ok("<html>")), "safetensors");
    let info = |files: &str| ok(format!(r#"{{"sha":"{COMMIT}","siblings":[{files}]}}"#));
    let api = "/api/models/org/name/revision/main";
    fails(
        &|r| {
            _ = r.insert(api.into(), info(r#"{"rfilename":"config.json"},{"rfilename":"pytorch_model.bin"}"#))
        },
        "pytorch_model.bin",
    );
    fails(&|r| _ = r.insert(api.into(), ok(r#"{"sha":"../..","siblings":[]}"#)), "no commit");
    fails(&|r| _ = r.insert(api.into(), ok("{")), "JSON");
}
