//! Models of the zoo against the CPU.

use super::*;

pub(super) fn zoo_plan(names: &[&str]) -> zoo::Plan {
    let models = names.iter().map(|name| named(name).expect("in the zoo"));
    zoo::Plan {
        models: models.collect(),
        precisions: vec![Precision::Fp32],
        batches: vec![1, 3],
        rounds: 2,
    }
}

#[test]
fn a_device_that_answers_as_the_cpu_does_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let (mut reference, _) = cpu(folder.path());
    let plan = zoo_plan(&["bert-tiny", "identity"]);
    let Ran { answer, kept } = within(LONG, |budget| {
        zoo::run(&mut stage, &mut reference, &plan, budget)
    });
    assert_eq!(answer.verdict, Verdict::Holds, "{}", answer.words);
    let verdicts: Vec<_> = kept.iter().map(|kept| kept.verdict).collect();
    assert_eq!(verdicts, [Verdict::Unknown, Verdict::Holds]);
    let rows = answer.facts["models"][0]["batches"].as_array();
    for row in rows.expect("rows") {
        let number = |key: &str| row[key].as_f64().expect("a number");
        assert!(number("deviation") < 1e-4, "{row}");
        assert!(number("graphs_us") > 0.0 && number("eager_us") > 0.0);
        assert!(number("leg_us") >= number("graphs_us"), "{row}");
    }
}

#[test]
fn runs_that_were_eager_are_not_called_captured() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut reference, _) = cpu(folder.path());
    let plan = zoo_plan(&["identity"]);
    for (claims, captured) in [(Claims::All, true), (Claims::NoCaptures, false)] {
        let mut stage = cpu(folder.path()).0.within(|device| Skewed {
            device,
            skew: Box::new(|_| {}),
            refused: None,
            claims,
            side_by_side: Mutex::default(),
            counts: Default::default(),
        });
        let Ran { answer, .. } = within(LONG, |budget| {
            zoo::run(&mut stage, &mut reference, &plan, budget)
        });
        assert_eq!(answer.verdict, Verdict::Holds, "{}", answer.words);
        let row = &answer.facts["models"][0]["batches"][0];
        assert_eq!(row["captured"], captured, "{row}");
        let is_told = answer.words.contains("not used by identity");
        assert_eq!(is_told, !captured, "{}", answer.words);
    }
}

#[test]
fn answers_that_are_off_by_a_little_are_one_models_failed_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    // Whole numbers stay as they are, and with them the answers of the text model.
    let mut stage = skewed(folder.path(), None, |work| {
        for request in &mut work.requests {
            let inputs = request.inputs.iter().cloned().map(scaled);
            request.inputs = inputs.collect();
        }
    });
    let (mut reference, _) = cpu(folder.path());
    let plan = zoo_plan(&["identity", "bert-tiny"]);
    let Ran { answer, kept } = within(LONG, |budget| {
        zoo::run(&mut stage, &mut reference, &plan, budget)
    });
    let Answer { verdict, words, .. } = &answer;
    assert_eq!(*verdict, Verdict::Fails);
    assert!(
        words.contains("identity at batch 1 deviates by 1.0e-2"),
        "{words}"
    );
    assert!(words.contains("identity at batch 3 deviates"), "{words}");
    assert!(!words.contains("bert-tiny at"), "{words}");
    assert_eq!(kept[0].verdict, Verdict::Fails, "known before the rest");
    let models = answer.facts["models"].as_array();
    assert_eq!(models.map(Vec::len), Some(2), "the part goes on after it");
}

#[test]
fn half_precision_stands_beside_single_precision() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let (mut reference, _) = cpu(folder.path());
    let both = |names| zoo::Plan {
        precisions: vec![Precision::Fp32, Precision::Fp16],
        ..zoo_plan(names)
    };
    let plan = both(&["bert-tiny", "identity"]);
    let Ran { answer, kept } = within(LONG, |budget| {
        zoo::run(&mut stage, &mut reference, &plan, budget)
    });
    let Answer {
        verdict,
        words,
        facts,
    } = answer;
    assert_eq!(verdict, Verdict::Holds, "{words}");
    assert!(
        words.contains("2 of 2 models in fp32 and 2 of 2 models in fp16"),
        "{words}"
    );
    let kept: Vec<&str> = kept.iter().map(|answer| answer.words.as_str()).collect();
    assert_eq!(kept.len(), 4);
    assert!(
        kept[1].contains("2 of 2 models in fp32 and 0 of 2 models in fp16"),
        "all have the first precision before any has the next: {}",
        kept[1]
    );
    let models = facts["models"].as_array().expect("models");
    let of = |index: usize| {
        let model: &serde_json::Value = &models[index];
        let row = &model["batches"][0];
        assert_eq!(
            (&model["model"], &row["captured"]),
            (&json!("bert-tiny"), &json!(false))
        );
        (
            model["precision"].as_str(),
            row["deviation"].as_f64().expect("a number"),
        )
    };
    let ((single, little), (half, more)) = (of(0), of(2));
    assert_eq!(
        (single, half, models.len()),
        (Some("fp32"), Some("fp16"), 4)
    );
    assert!(
        little < 1e-4 && more > little && more < 1e-2,
        "{little} and {more}"
    );

    // What is too much in 32 bits is not in 16.
    let mut stage = skewed(folder.path(), None, |work| {
        for request in &mut work.requests {
            let inputs = request.inputs.iter().cloned().map(scaled);
            request.inputs = inputs.collect();
        }
    });
    let plan = both(&["identity"]);
    let Ran { answer, .. } = within(LONG, |budget| {
        zoo::run(&mut stage, &mut reference, &plan, budget)
    });
    let words = &answer.words;
    assert!(words.contains("identity at batch 1 deviates"), "{words}");
    assert!(!words.contains("identity in fp16"), "{words}");
}

/// A tensor of floats times 1.01.
fn scaled(tensor: InputTensor) -> InputTensor {
    match tensor.data {
        InputData::Here(TensorData::Raw(bytes)) if tensor.shape == [1, 1] => {
            let (words, _) = bytes.as_chunks::<4>();
            let floats = words.iter().map(|&word| f32::from_le_bytes(word) * 1.01);
            let bytes: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
            InputTensor {
                data: TensorData::Raw(Bytes::from(bytes)).into(),
                ..tensor
            }
        }
        data @ (InputData::Here(_) | InputData::Shared(_)) => InputTensor { data, ..tensor },
    }
}

#[test]
fn rows_that_are_mixed_up_show_at_larger_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = skewed(folder.path(), None, |work| work.requests.reverse());
    let (mut reference, _) = cpu(folder.path());
    let plan = zoo_plan(&["identity"]);
    let Ran { answer, .. } = within(LONG, |budget| {
        zoo::run(&mut stage, &mut reference, &plan, budget)
    });
    assert_eq!(answer.verdict, Verdict::Fails);
    let words = &answer.words;
    assert!(
        words.contains("batch 3 deviates") && !words.contains("batch 1 deviates"),
        "{words}"
    );
}

#[test]
fn a_model_that_cannot_be_loaded_is_a_failed_row_and_others_are_tried() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = skewed(folder.path(), Some(ModelId(0)), |_| {});
    let (mut reference, _) = cpu(folder.path());
    let plan = zoo_plan(&["bert-tiny", "identity"]);
    let Ran { answer, .. } = within(LONG, |budget| {
        zoo::run(&mut stage, &mut reference, &plan, budget)
    });
    assert_eq!(answer.verdict, Verdict::Fails);
    assert!(
        answer.words.contains("bert-tiny at batch 1: "),
        "{}",
        answer.words
    );
    assert!(!answer.words.contains("identity at"), "{}", answer.words);
}
