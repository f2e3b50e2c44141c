//! Everything that a network, a hub or somebody in between can do wrong.

use std::fs;
use std::time::{Duration, Instant};

use crate::server::{Faults, NAME, SIGNATURE};
use crate::{Place, common};

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    for (prefix, status, code, expected) in [
        ("/api", 401, "RepoNotFound", &["check the spelling", "without a token", "set HF_TOKEN"][..]),
        ("/api", 401, "GatedRepo", &["/org/tiny-model for those who", "accept", "HF_TOKEN"]),
        ("/org", 403, "GatedRepo", &["/org/tiny-model for those who", "said by the hub", "set HF_TOKEN"]),
        ("/api", 404, "RepoNotFound", &["no http://", "spelling", "--revision"]),
        ("/api", 404, "RevisionNotFound", &["spelling", "--revision"]),
        ("/org", 404, "EntryNotFound", &["said by the hub"]),
        ("/api", 418, "", &["status 418"]),
    ] {
        place.server.fail(Faults { status: Some((prefix, status, code)), times: 100, ..Faults::default() });
        let error = place.error();
        for expected in expected {
            assert!(error.contains(expected), "{status} {code}: {error}");
        }
    }
}

#[test]
fn a_token_that_has_no_access_is_said_to_be_one() {
    let mut place = Place::new();
    place.token = Some("mine");
    place.server.fail(Faults { token: Some("another"), ..Faults::default() });
    let error = place.error();
    assert!(error.contains("the owner of this token") && error.contains("that has access"), "{error}");
    assert!(!error.contains("mine"), "{error}");
    place.server.fail(Faults { token: Some("mine"), ..Faults::default() });
    place.pull().unwrap();
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let mut place = Place::new();
    place.token = Some("secret");
    place.pull().unwrap();
    let seen = place.server.seen();
    assert!(seen.iter().any(|seen| seen.storage), "nothing came from the storage");
    for seen in seen {
        let expected = (!seen.storage).then(|| "Bearer secret".to_owned());
        assert_eq!(seen.token, expected, "{seen:?}");
    }
    // A list that another host is to give.
    let other = Place::new();
    let elsewhere = format!("{}/api/models/{NAME}/revision/main", other.server.endpoint);
    place.server.fail(Faults { redirect: Some(elsewhere), ..Faults::default() });
    place.pull().unwrap();
    let seen = other.server.seen();
    assert!(seen.len() == 1 && seen[0].token.is_none(), "{seen:?}");
}

#[test]
fn what_is_cut_off_goes_on_where_it_stopped() {
    let place = Place::new();
    place.server.fail(Faults { cut: Some(100_000), ..Faults::default() });
    let pulled = place.pull().unwrap();
    assert!(common::contents(&pulled.snapshot.path) == common::contents(&common::stock("smolvlm")));
    let storage = place.server.seen().into_iter().filter(|seen| seen.storage);
    let ranges: Vec<_> = storage.filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=200000-"]);
}

#[test]
fn a_pull_that_gave_up_is_gone_on_with_by_the_next() {
    // With ranges, and on a server that knows none and gives all of it again.
    for no_ranges in [false, true] {
        let place = Place::new();
        place.server.fail(Faults { cut: Some(40_000), ..Faults::default() });
        let error = place.error();
        assert!(
            error.contains("was cut off at 160000 of 204800") && error.contains("the same command"),
            "{error}"
        );
        place.server.seen();
        place.server.fail(Faults { no_ranges, ..Faults::default() });
        let pulled = place.pull().unwrap();
        assert!(common::contents(&pulled.snapshot.path) == common::contents(&common::stock("smolvlm")));
        let first = place.server.seen().into_iter().find(|seen| seen.storage).unwrap();
        assert_eq!(first.range.as_deref(), Some("bytes=160000-"));
    }
}

#[test]
fn a_damaged_beginning_is_thrown_away() {
    let place = Place::new();
    let pulled = place.pull().unwrap();
    let weights = pulled.files.last().unwrap();
    let blob = place.blob(&weights.hash);
    for left in
        [vec![7; 1000], vec![7; weights.bytes as usize], vec![7; weights.bytes as usize + 1], Vec::new()]
    {
        fs::remove_file(&blob).unwrap();
        fs::write(blob.with_extension("incomplete"), left).unwrap();
        assert_eq!(place.pull().unwrap().fetched_bytes, weights.bytes);
        assert_eq!(crate::server::sha256(&fs::read(&blob).unwrap()), weights.hash);
    }
    // A blob of another size is none.
    fs::write(&blob, "short").unwrap();
    place.pull().unwrap();
    assert_eq!(fs::metadata(&blob).unwrap().len(), weights.bytes);
}

#[test]
fn other_bytes_are_never_kept() {
    let place = Place::new();
    place.server.fail(Faults { wrong_byte: Some(500), ..Faults::default() });
    let error = place.error();
    assert!(error.contains("was changed on its way") && error.contains("hash"), "{error}");
    for more in [3, -3] {
        place.server.fail(Faults { size: Some(("model.safetensors", more)), ..Faults::default() });
        let error = place.error();
        let (expected, found) = (204_800 + more, 204_800);
        assert!(error.contains(&format!("{expected} bytes, and the server sends {found}")), "{error}");
    }
    place.server.fail(Faults { size: Some(("tokenizer.json", 1 << 40)), ..Faults::default() });
    assert!(place.error().contains("expected 268435456 at most"));
    let blobs = crate::server::tree(&place.cache().join("models--org--tiny-model/blobs"));
    assert!(blobs.keys().all(|name| !name.ends_with(".incomplete")), "{:?}", blobs.keys());
    place.server.fail(Faults::default());
    place.pull().unwrap();
}

#[test]
fn a_disk_that_is_too_small_is_seen_before_weights_are_fetched() {
    let place = Place::new();
    place.server.fail(Faults { size: Some(("model.safetensors", 1 << 60)), ..Faults::default() });
    let error = place.error();
    assert!(error.contains("not enough space") && error.contains("are free"), "{error}");
    let weights = crate::server::sha256(&place.server.inside().files["model.safetensors"].0);
    assert!(place.server.seen().iter().all(|seen| !(seen.storage && seen.path.ends_with(&weights))));
}

#[test]
fn paths_lead_nowhere() {
    let place = Place::new();
    let names =
        |name: &str| Some(vec!["config.json".to_owned(), "model.safetensors".to_owned(), name.to_owned()]);
    for name in ["../../../escape.json", "/etc/passwd", "chat_templates/../../x.jinja", "a\\..\\b", ""] {
        place.server.fail(Faults { list: names(name), ..Faults::default() });
        assert!(place.error().contains("without `..`"), "{name}");
    }
    for etag in ["../../../../escape", "", "d41d8cd98f00b204e9800998ecf8427e"] {
        place.server.fail(Faults { etag: Some(etag.to_owned()), ..Faults::default() });
        assert!(place.error().contains("SHA-1 or SHA-256"), "{etag}");
    }
    place.server.fail(Faults::default());
    place.server.inside().files.remove("model.safetensors");
    for shard in ["../model.safetensors", "/model.safetensors", "a/../b.safetensors", "pytorch_model.bin"] {
        let index = serde_json::json!({"weight_map": {"a": shard}}).to_string().into_bytes();
        place.server.inside().files.insert("model.safetensors.index.json".into(), (index, false));
        let error = place.error();
        assert!(error.contains("the index of org/tiny-model") && error.contains("expected"), "{error}");
    }
    assert!(place.server.seen().iter().all(|seen| !seen.path.contains("pytorch")));
    for entry in fs::read_dir(place.dir.path()).unwrap() {
        assert_eq!(entry.unwrap().file_name(), "hub");
    }
}

#[test]
fn a_repository_without_safetensors_says_what_it_has() {
    let place = Place::new();
    place.server.inside().files.remove("model.safetensors");
    let error = place.error();
    assert!(
        error.contains("onnx/model.onnx, pytorch_model.bin") && error.contains("never fetched"),
        "{error}"
    );
}

#[test]
fn lists_without_end_and_answers_of_others_are_refused() {
    let place = Place::new();
    let many = (0..300_000).map(|at| format!("a-file-with-a-long-name-{at:040}.json")).collect();
    place.server.fail(Faults { list: Some(many), ..Faults::default() });
    assert!(place.error().contains("is longer than"));
    place.server.fail(Faults { redirect: Some("/elsewhere".to_owned()), ..Faults::default() });
    assert!(place.error().contains("check the spelling"));
    for (to, expected) in [
        (format!("/api/models/{NAME}/revision/main?again"), "redirected too often"),
        ("ftp://x/y?secret".to_owned(), "expected an https address"),
        ("http://".to_owned(), "expected an https address"),
    ] {
        place.server.fail(Faults { redirect: Some(to), ..Faults::default() });
        let error = place.error();
        assert!(error.contains(expected) && !error.contains("secret"), "{error}");
    }
}

#[test]
fn a_busy_hub_is_asked_again() {
    let place = Place::new();
    place.server.fail(Faults { status: Some(("/", 503, "")), times: 3, ..Faults::default() });
    place.pull().unwrap();
    place.server.fail(Faults { status: Some(("/", 503, "")), times: 100, ..Faults::default() });
    assert!(common::chain(&place.pull().unwrap_err()).contains("status 503"));
}

#[test]
fn a_server_that_says_no_more_is_given_up() {
    for (faults, at) in [
        (Faults { wait: Duration::from_secs(600), ..Faults::default() }, 0),
        (Faults { cut: Some(300), stall: true, ..Faults::default() }, 1200),
    ] {
        let mut place = Place::new();
        place.patience = Duration::from_millis(500);
        place.server.fail(faults);
        let started = Instant::now();
        let error = place.error();
        assert!(error.contains(&format!("was cut off at {at} of")), "{error}");
        assert!(error.contains("cannot reach") || error.contains("broke"), "{error}");
        assert!(!error.contains(SIGNATURE), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let mut place = Place::new();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    place.server.endpoint = format!("http://{gone}");
    let error = place.error();
    assert!(error.contains(&gone.to_string()) && error.contains("check the network"), "{error}");
}
