#![allow(clippy::unwrap_used)]

use super::*;
use crate::text::Markers;
use crate::toy;

fn guide(expression: &str) -> Guide {
    let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
    let forms = Forms::new(vec![toy::IM_END]);
    let form = Form::Regex(expression.into());
    forms.compile(&form, &vocabulary, &Sampling::default()).unwrap()
}

fn allowed(guide: &mut Guide) -> Option<Vec<u32>> {
    let mask = guide.mask().unwrap()?;
    Some((0..400).filter(|id| mask.allows(*id)).collect())
}

#[test]
fn the_end_is_allowed_where_the_form_is_complete() {
    let mut guide = guide("ab?");
    assert_eq!(allowed(&mut guide), Some(vec![toy::byte_id(b'a')]));
    assert_eq!(guide.take(toy::byte_id(b'a')), Ok(Progress::Open));
    assert_eq!(allowed(&mut guide), Some(vec![toy::byte_id(b'b'), toy::IM_END]));
    let mut other = guide.clone();
    assert_eq!(guide.take(toy::byte_id(b'b')), Ok(Progress::Complete));
    assert!(other.take(toy::byte_id(b'a')).is_err(), "clones are apart, and keep their form");
}

#[test]
fn control_tokens_are_in_no_form() {
    let found = allowed(&mut guide("(?s:.)*")).unwrap();
    let special = [toy::ENDOFTEXT, toy::IM_START, toy::VISION_START, toy::VISION_END, toy::IMAGE_PAD];
    assert!(special.iter().all(|id| !found.contains(id)), "{found:?}");
    assert!(found.contains(&toy::IM_END) && found.contains(&toy::byte_id(b'\n')));
}

/// Two control tokens of the toy as the beginning and the end of thoughts.
#[test]
fn thoughts_come_first_and_free() {
    let (begin, end) = (toy::VISION_START, toy::VISION_END);
    let markers = Markers::from_ids(begin, end);
    let mut open = guide("a").behind(Some(markers.behind(&[])));
    assert_eq!(allowed(&mut open), Some(vec![toy::byte_id(b'a'), begin]), "either of the two");
    let mut answers = open.clone();
    assert_eq!(answers.take(toy::byte_id(b'a')), Ok(Progress::Complete));

    for mut thinks in [guide("a").behind(Some(markers.behind(&[begin]))), {
        open.take(begin).unwrap();
        open
    }] {
        for id in [toy::byte_id(b'z'), begin, toy::IM_START] {
            assert_eq!(allowed(&mut thinks), None);
            assert_eq!(thinks.take(id), Ok(Progress::Open));
        }
        assert_eq!(thinks.take(end), Ok(Progress::Open));
        assert_eq!(allowed(&mut thinks), Some(vec![toy::byte_id(b'a')]), "no thoughts twice");
        assert_eq!(thinks.take(toy::byte_id(b'a')), Ok(Progress::Complete));
    }
}
