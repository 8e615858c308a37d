use super::*;
use std::path::Path;

/// Sources of which only a file says anything.
pub(crate) fn file(text: &str) -> Sources {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("fugato.toml");
    std::fs::write(&path, text).expect("written");
    let mut file = read_file(&path).expect("well formed");
    file.path = PathBuf::from("fugato.toml");
    Sources {
        file: Some(file),
        ..Sources::default()
    }
}

#[test]
fn flag_before_environment_before_file_before_default() {
    let mut sources = file("[server]\nhttp_port = 1\ngrpc_port = 2\nmetrics_port = 3");
    sources.environment.server.http_port = Some(11);
    sources.environment.server.grpc_port = Some(12);
    sources.flags.server.http_port = Some(21);
    let config = Config::resolve(&sources).expect("valid");
    let server = &config.server;
    assert_eq!(
        (server.http_port, server.grpc_port, server.metrics_port),
        (21, 12, 3)
    );
    let cases = [
        ("server.http_port", Origin::Flag),
        (
            "server.grpc_port",
            Origin::Variable("FUGATO_SERVER_GRPC_PORT".to_owned()),
        ),
        ("server.metrics_port", Origin::File("fugato.toml".into())),
        ("server.host", Origin::Default),
    ];
    for (path, origin) in cases {
        assert_eq!(config.origins.origin(path), origin, "{path}");
    }
}

#[test]
fn a_model_inherits_what_its_section_does_not_say() {
    let config = Config::resolve(&file(
        "[defaults]\nslo = \"50ms\"\nslots = 3\n[model.a]\nslo = \"5ms\"",
    ))
    .expect("valid");
    assert_eq!(config.model("a").slo, Some(Span::from_millis(5)));
    assert_eq!(config.model("a").slots, 3);
    assert_eq!(config.model("unheard-of").slo, Some(Span::from_millis(50)));
    let noted: Vec<&str> = config.origins.iter().map(|(path, _)| path).collect();
    assert!(noted.contains(&"model.a.slo") && !noted.contains(&"model.a.slots"));
}

#[test]
fn values_out_of_range_name_key_value_range_and_origin() {
    let cases = [
        ("[server]\nhttp_port = 8001", "server.grpc_port"),
        ("[server]\nmax_body_bytes = 3", "server.max_body_bytes"),
        ("[device]\nlanes = 0", "device.lanes"),
        ("[device]\nniceness = -1", "device.niceness"),
        (
            "[device]\nniceness = 3\nniceness_urgent = 4",
            "device.niceness_urgent",
        ),
        (
            "[scheduler]\nadmission_quantile = 1.5",
            "scheduler.admission_quantile",
        ),
        (
            "[scheduler]\nadmission_quantile = nan",
            "scheduler.admission_quantile",
        ),
        (
            "[policy.uncontrolled]\nlanes = 0",
            "policy.uncontrolled.lanes",
        ),
        (
            "[policy.uncontrolled]\nshare = 0",
            "policy.uncontrolled.share",
        ),
        ("[policy.dstack]\nmargin = 257", "policy.dstack.margin"),
        ("[model.a]\nweight = -1.0", "model.a.weight"),
        ("[model.a]\nslots = 0", "model.a.slots"),
        (
            "[model.a]\npreferred_batch_sizes = [8, 4]",
            "model.a.preferred_batch_sizes",
        ),
        (
            "[model.a]\nmax_batch_size = 2\npreferred_batch_sizes = [4]",
            "model.a.preferred_batch_sizes",
        ),
        (
            "[defaults]\nslo = \"0s\"\n[model.a]\nslots = 3",
            "defaults.slo",
        ),
    ];
    for (text, key) in cases {
        let error = Config::resolve(&file(text)).expect_err(text).to_string();
        assert!(error.contains(&format!("`{key}`")), "{text:?} gave {error}");
    }
    let error = Config::resolve(&file("[device]\nlanes = 0")).expect_err("no lane");
    assert_eq!(
        error.to_string(),
        "`device.lanes` is 0, expected 1 to 64 (set by: file fugato.toml)"
    );
}

#[test]
fn a_policy_is_made_with_its_settings() {
    let text = "[policy.uncontrolled]\nlanes = 4\nshare = 1";
    let config = Config::resolve(&file(text)).expect("valid");
    let expected = PolicySpec::Uncontrolled {
        lanes: 4,
        share: Some(Share(1)),
    };
    assert_eq!(config.policy_spec(Policy::Uncontrolled), expected);
    let path = "policy.uncontrolled.share";
    assert_eq!(
        config.origins.origin(path),
        Origin::File("fugato.toml".into())
    );
    let config = Config::resolve(&Sources::default()).expect("valid");
    for name in PolicySpec::NAMES {
        use clap::ValueEnum as _;
        let policy = Policy::from_str(name, false).expect("every policy can be configured");
        let usual = PolicySpec::named(name).expect("it has a name");
        assert_eq!(config.policy_spec(policy), usual, "{name}");
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let error = read_file(Path::new("no/such.toml")).expect_err("there is none");
    assert!(error.to_string().contains("`no/such.toml`"), "{error}");
}

#[test]
fn the_defaults_are_valid_and_every_setting_is_noted() {
    let config = Config::resolve(&Sources::default()).expect("defaults are valid");
    for setting in SETTINGS.iter().flat_map(|(_, settings)| settings.iter()) {
        let path = setting.path();
        assert!(
            config.origins.iter().any(|(known, _)| known == path),
            "{path}"
        );
        let doc = setting.doc.trim();
        assert!(
            doc.ends_with('.') && doc.len() > 40,
            "{path} needs a reason: {doc}"
        );
    }
}

#[test]
fn a_server_for_others_needs_tls_and_tokens_or_says_insecure() {
    let resolve = |text: &str| Config::resolve(&file(&format!("[server]\n{text}")));
    let (tls, token) = (
        "tls_cert = \"c\"\ntls_key = \"k\"\n",
        "auth_token_file = \"t\"\n",
    );
    for host in ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"] {
        let host = format!("host = \"{host}\"\n");
        for (given, hint) in [
            (
                "",
                "add `--tls-cert FILE --tls-key FILE` and `--auth-token-file FILE`; or `--insecure`",
            ),
            (tls, "add `--auth-token-file FILE`; or `--insecure`"),
            (
                token,
                "add `--tls-cert FILE --tls-key FILE`; or `--insecure`",
            ),
        ] {
            let error = resolve(&format!("{host}{given}")).expect_err("it is open");
            assert!(error.to_string().contains(hint), "{error}");
        }
        resolve(&format!("{host}{tls}{token}")).expect("it is closed");
        resolve(&format!("{host}insecure = true")).expect("it is wanted");
    }
    for host in ["127.0.0.1", "127.1.2.3", "::1"] {
        resolve(&format!("host = \"{host}\"")).expect("nobody else reaches it");
    }
    let error = resolve("tls_key = \"k\"").expect_err("no certificate");
    assert_eq!(
        error.to_string(),
        "`server.tls_key` is set and `server.tls_cert` is not, expected both or neither"
    );
}

#[test]
fn a_supervisor_comes_by_itself_with_a_gpu_only() {
    let supervised = |supervise: &str, gpu| {
        let text = format!("[server]\nsupervise = \"{supervise}\"");
        let config = Config::resolve(&file(&text)).expect("valid");
        config.supervised(gpu)
    };
    for (supervise, on_cpu, on_gpu) in [
        ("auto", false, true),
        ("on", true, true),
        ("off", false, false),
    ] {
        assert_eq!(supervised(supervise, false), on_cpu, "{supervise}");
        assert_eq!(supervised(supervise, true), on_gpu, "{supervise}");
    }
}

#[test]
fn each_part_of_fugato_is_switched_by_its_name_in_a_file_and_behind_the_policy() {
    let usual = FugatoParts::default();
    let parts = serde_json::to_value(usual).expect("it serialises");
    for (name, is_on) in parts.as_object().expect("by name") {
        let other = !is_on.as_bool().expect("on or off");
        let config = Config::resolve(&file(&format!("[policy.fugato]\n{name} = {other}")));
        let spec = config.expect("valid").policy_spec(Policy::Fugato);
        assert_ne!(spec, PolicySpec::Fugato(usual), "{name} reaches the policy");
        let named = crate::policies::parse(&format!("fugato:{name}={other}"));
        assert_eq!(named, Ok(spec), "{name}");
    }
}

#[test]
fn the_ablation_of_bench_legs_switches_every_part_of_fugato() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/legs");
    let script = std::fs::read_to_string(script).expect("it is in the repository");
    let (_, list) = script.split_once("\nPARTS = [").expect("a list of parts");
    let (list, _) = list.split_once(']').expect("its end");
    let switched: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    for part in &switched {
        let spec = crate::policies::parse(&format!("fugato:{part}")).expect(part);
        assert_ne!(spec, PolicySpec::Fugato(FugatoParts::default()), "{part}");
    }
    let parts = serde_json::to_value(FugatoParts::default()).expect("it serialises");
    for name in parts.as_object().expect("by name").keys() {
        let is_there = |part: &&str| part.contains(&format!("{name}="));
        assert!(
            switched.iter().any(is_there),
            "`{name}` is not in {switched:?}"
        );
    }
}
