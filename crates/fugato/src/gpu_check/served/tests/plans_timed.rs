//! Plans, timed and checked.

use super::*;

/// A plan of which one of two runs of a model in legs takes another partition at a boundary.
fn plans_plan(names: &[&str], runtime: String) -> plans::Plan {
    let models = names.iter().map(|name| named(name).expect("in the zoo"));
    plans::Plan {
        models: models.collect(),
        planner: "greedy".parse().expect("a planner"),
        costs: CostModel::IOS_V100,
        share: Share(80),
        rounds: 2,
        runtime,
        libraries: Some("cuDNN 9".to_owned()),
    }
}

#[test]
fn a_plan_whose_legs_run_otherwise_than_asked_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = cpu(folder.path()).1;
    for (claims, expected) in [
        (Claims::NoCaptures, "in one piece ran 0 of 2 legs in graphs"),
        (Claims::NoRuns, "ran groups at once in 0 of 2 legs"),
    ] {
        let mut stage = cpu(folder.path()).0.within(|device| Skewed {
            device,
            skew: Box::new(|_| {}),
            refused: None,
            claims,
            side_by_side: Mutex::default(),
            counts: Default::default(),
        });
        let plan = plans_plan(&["squeezenet1_1"], runtime.clone());
        let Ran { answer, .. } = within(LONG, |budget| plans::run(&mut stage, &plan, budget));
        assert_eq!(answer.verdict, Verdict::Fails, "{claims:?}");
        assert!(answer.words.contains(expected), "{}", answer.words);
    }
}

#[test]
fn plans_are_timed_three_ways_on_the_whole_device_and_over_two_partitions() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = cpu(folder.path()).1;
    let mut stage = skewed(folder.path(), None, |_| {});
    let is_divided = super::super::stage::halves(stage.device.spec()).is_some();
    let plan = plans_plan(&["squeezenet1_1"], runtime.clone());
    let Ran { answer, kept } = within(LONG, |budget| plans::run(&mut stage, &plan, budget));
    assert_eq!(kept.len(), 2);
    assert_eq!(answer.facts["runtime"], runtime);
    let rows = answer.facts["rows"].as_array().expect("rows");
    assert_eq!(rows[0]["legs"], 1, "{}", answer.words);
    assert!(rows[0]["groups_at_once_most"].as_u64() > Some(1));
    let measured = &rows[..if is_divided { 2 } else { 1 }];
    for row in measured {
        for key in ["unsplit_us", "legs_in_one_session_us", "groups_at_once_us"] {
            assert!(row[key].as_f64().is_some_and(|time| time > 0.0), "{row}");
        }
        assert!(
            row["deviation"].as_f64().is_some_and(|apart| apart <= 1e-5),
            "{row}"
        );
        assert_eq!(row["legs_at_once"], row["legs"]);
        assert_eq!(
            row["legs_captured"],
            json!([2, row["legs"].as_u64().map(|legs| 2 * legs)])
        );
    }
    match is_divided {
        true => assert!(rows[1]["legs"].as_u64() > Some(1), "{}", rows[1]),
        false => assert!(rows[1]["error"].is_string(), "{}", rows[1]),
    }
}

#[test]
fn a_plan_that_answers_otherwise_than_its_model_or_puts_nothing_at_once_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = cpu(folder.path()).1;
    // The first model is loaded as it is, the others in legs, whose inputs are off.
    let mut stage = skewed(folder.path(), None, |work| {
        if work.start.model > ModelId(0) {
            for request in &mut work.requests {
                let inputs = request.inputs.iter().cloned().map(dimmed);
                request.inputs = inputs.collect();
            }
        }
    });
    let plan = plans_plan(&["squeezenet1_1", "identity"], runtime);
    let Ran { answer, kept } = within(LONG, |budget| plans::run(&mut stage, &plan, budget));
    assert_eq!(answer.verdict, Verdict::Fails);
    assert_eq!(kept[0].verdict, Verdict::Fails, "known before the rest");
    let words = &answer.words;
    assert!(
        words.contains("squeezenet1_1 on the whole device deviates by"),
        "{words}"
    );
    assert!(
        words.contains("identity on the whole device: the planner puts no groups at once"),
        "{words}"
    );
    // The CPU runs groups as it does, and claims nothing.
    let (mut stage, runtime) = cpu(folder.path());
    let plan = plans_plan(&["squeezenet1_1"], runtime);
    let Ran { answer, .. } = within(LONG, |budget| plans::run(&mut stage, &plan, budget));
    assert!(
        answer.words.contains("has no groups that run at once"),
        "{}",
        answer.words
    );
}

/// A tensor of floats with every other one half as large.
fn dimmed(tensor: InputTensor) -> InputTensor {
    let InputData::Here(TensorData::Raw(bytes)) = &tensor.data else {
        return tensor;
    };
    let (words, _) = bytes.as_chunks::<4>();
    let floats = words.iter().enumerate().map(|(place, &word)| {
        let number = f32::from_le_bytes(word);
        if place % 2 == 0 { number } else { 0.5 * number }
    });
    let bytes: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
    InputTensor {
        data: TensorData::Raw(Bytes::from(bytes)).into(),
        ..tensor
    }
}
