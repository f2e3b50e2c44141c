//! Calls of earlier turns and their results, as templates want them.

use sha2::{Digest as _, Sha256};

use super::Message;

/// Letters and digits of an id. Some templates take no others.
const LENGTH: usize = 9;

/// Gives each call and its result an id of nine letters and digits, the same for both, and each result the
/// name of its function. Ids that are such stay; others, which come from other servers, become a digest.
/// Without ids, results answer calls in their order.
pub(super) fn settle(messages: &mut [Message]) {
    // The calls that no result has answered yet: id and name.
    let mut open: Vec<(String, String)> = Vec::new();
    let mut count = 0_usize;
    for message in messages {
        for call in &mut message.calls {
            count += 1;
            let id = settled(call.id.as_deref().unwrap_or(&format!("call {count}")));
            open.push((id.clone(), call.name.clone()));
            call.id = Some(id);
        }
        if message.role != arrcoc_runtime::generate::Speaker::Tool {
            continue;
        }
        let id = message.call_id.as_deref().map(settled);
        let named = message.name.as_deref();
        let place = open.iter().position(|(of, name)| match (&id, named) {
            (Some(id), _) => of == id,
            (None, Some(named)) => name == named,
            (None, None) => true,
        });
        match place.map(|place| open.remove(place)) {
            Some((id, name)) => {
                message.call_id = Some(id);
                message.name.get_or_insert(name);
            }
            None => message.call_id = id,
        }
    }
}

fn settled(id: &str) -> String {
    if id.len() == LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    arrcoc_bundle::hex(&Sha256::digest(id.as_bytes()))[..LENGTH].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrcoc_runtime::generate::{Speaker, ToolCall};
    use serde_json::json;

    use super::*;

    fn calls(ids: [Option<&str>; 2]) -> Message {
        let call = |id: Option<&str>, name: &str| ToolCall {
            id: id.map(str::to_owned),
            name: name.into(),
            arguments: json!({}),
        };
        let calls = vec![call(ids[0], "a"), call(ids[1], "b")];
        Message { calls, ..Message::new(Speaker::Assistant, Vec::new()) }
    }

    fn result(id: Option<&str>, name: Option<&str>) -> Message {
        let (call_id, name) = (id.map(str::to_owned), name.map(str::to_owned));
        Message { call_id, name, ..Message::new(Speaker::Tool, Vec::new()) }
    }

    #[test]
    fn results_have_the_ids_and_names_of_their_calls() {
        for (ids, results) in [
            ([Some("abcdefgh1"), Some("x")], [result(Some("x"), None), result(Some("abcdefgh1"), None)]),
            (
                [Some("toolu_1234567890"), Some("x")],
                [result(Some("x"), None), result(Some("toolu_1234567890"), None)],
            ),
            ([None, None], [result(None, Some("b")), result(None, None)]),
        ] {
            let mut messages = vec![calls(ids)];
            messages.extend(results);
            settle(&mut messages);
            let of = |at: usize| messages[0].calls[at].id.clone().unwrap();
            assert!([of(0), of(1)].iter().all(|id| id.len() == 9 && id.chars().all(char::is_alphanumeric)));
            assert_ne!(of(0), of(1));
            assert_eq!((messages[1].call_id.clone(), messages[1].name.as_deref()), (Some(of(1)), Some("b")));
            assert_eq!((messages[2].call_id.clone(), messages[2].name.as_deref()), (Some(of(0)), Some("a")));
        }
        let mut lost = vec![result(Some("nobody's"), None)];
        settle(&mut lost);
        assert_eq!(lost[0].call_id.as_ref().unwrap().len(), 9);
    }
}
