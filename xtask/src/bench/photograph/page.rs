//! The page that is made of what was measured.

use serde_json::Value;

use super::shape::{Column, Shape};

pub(super) fn page(shape: &Shape, result: &Value) -> String {
    let sides = result["sides"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |side: &Value, figure: &str| side["figures"][figure]["median"].as_f64();
    let first = |side: &Value| number(side, "first_token").unwrap_or(f64::NAN);
    let ours = |side: &&Value| side["name"].as_str().is_some_and(|name| name.starts_with("arrcoc"));
    let best = sides.iter().filter(|side| !ours(side)).map(first).fold(f64::INFINITY, f64::min);
    let mut page = heading(shape, result);
    for side in sides {
        let cell = |column: &Column| match *column {
            Column::Figure(figure, _, scale, digits) => {
                number(side, figure).map_or_else(String::new, |value| format!("{:.digits$}", value * scale))
            }
            Column::Ratio => format!("{:.2}", best / first(side)),
        };
        let cells: Vec<String> = shape.columns.iter().map(cell).collect();
        page += &format!("| {} | {} |\n", side["name"].as_str().unwrap_or_default(), cells.join(" | "));
    }
    page
}

fn heading(shape: &Shape, result: &Value) -> String {
    let titles: Vec<&str> = shape.columns.iter().map(Column::title).collect();
    format!(
        "# {}\n\n{} and the question \u{201c}{}\u{201d}: a prompt of {} tokens. {}, {} threads, medians of {} \
         rounds, in each of which every side runs once in a process of its own. Seconds; `first token` counts \
         from the picture's file (of transformers and llama.cpp, without its preparation: from the first tile \
         on). {}\n\n| | {} |\n|{}\n",
        shape.title,
        shape.picture,
        result["question"].as_str().unwrap_or_default(),
        result["prompt"],
        shape.weights,
        result["threads"],
        result["rounds"],
        shape.llama_cpp,
        titles.join(" | "),
        "---|".repeat(titles.len() + 1),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::qwen::QWEN3_VL_2B;
    use super::super::smolvlm::SMOLVLM;
    use super::super::{note, side};
    use super::*;

    #[test]
    fn a_row_compares_with_the_best_peer_and_leaves_out_what_nobody_said() {
        let mut sides = Vec::new();
        note(
            &mut sides,
            "arrcoc int8",
            &json!({"preprocess": 0.1, "vision": 4.0, "first_token": 5.0, "step": 0.01, "peak_rss": 1048576.0}),
        );
        note(
            &mut sides,
            "arrcoc int8",
            &json!({"preprocess": 0.1, "vision": 4.0, "first_token": 7.0, "step": 0.01, "peak_rss": 1048576.0}),
        );
        note(&mut sides, "llama.cpp", &json!({"vision": 20.0, "first_token": 24.0, "step": 0.02}));
        note(&mut sides, "transformers", &json!({"vision": 20.0, "first_token": 12.0, "step": 0.02}));
        assert_eq!(sides[0].1["first_token"], [5.0, 7.0]);
        let sides: Vec<Value> = sides.iter().map(side).collect();
        let result = json!({"sides": sides, "rounds": 2, "threads": 2, "prompt": 882, "question": "What?"});
        let page = page(&SMOLVLM, &result);
        assert!(page.contains("| arrcoc int8 | 0.10 | 4.00 | 6.00 | 2.00 | 10.0 | 1 |"), "{page}");
        assert!(page.contains("| llama.cpp |  | 20.00 | 24.00 | 0.50 | 20.0 |  |"), "{page}");
    }

    #[test]
    fn a_table_has_its_shapes_columns() {
        let taken =
            json!({"preprocess": 0.1, "vision": 4.0, "prefill": 2.0, "first_token": 6.1, "step": 0.02});
        let mut sides = Vec::new();
        note(&mut sides, "arrcoc int4", &taken);
        note(&mut sides, "llama.cpp-q4_0", &json!({"vision": 20.0, "prefill": 4.4, "first_token": 24.4}));
        let sides: Vec<Value> = sides.iter().map(side).collect();
        let result = json!({"sides": sides, "rounds": 1, "threads": 2, "prompt": 1047, "question": "What?"});
        let page = page(&QWEN3_VL_2B, &result);
        let head = "| | preparation | vision | prefill | first token | best peer, times as long | \
                    ms per token | peak MiB |\n|---|---|---|---|---|---|---|---|\n";
        assert!(page.contains(head), "{page}");
        assert!(page.contains("| arrcoc int4 | 0.10 | 4.00 | 2.00 | 6.10 | 4.00 | 20.0 |  |"), "{page}");
        assert!(page.contains("a prompt of 1047 tokens. Random weights in all"), "{page}");
    }
}
