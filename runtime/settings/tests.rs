use super::*;
use std::num::NonZeroUsize;

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn settings(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::new(ServeArgs::default(), &env(pairs))
}

#[test]
fn defaults_serve_a_mounted_directory() {
    let s = settings(&[]).unwrap();
    assert_eq!(
        (s.model.to_str(), s.host.to_string().as_str(), s.port),
        (Some("/models"), "0.0.0.0", 8080)
    );
    assert_eq!(
        (s.context, s.parallel, s.batch),
        (Context::AtMost(4096), Parallel::AtMost(4), 256)
    );
    assert!(s.api_keys.is_open() && s.mmap && !s.mlock && s.warnings.is_empty());
}

#[test]
fn a_flag_beats_the_canonical_variable_which_beats_aliases_in_their_order() {
    let all = [
        ("STERNA_CTX_SIZE", "3"),
        ("BITNET_CTX_SIZE", "2"),
        ("LLAMA_ARG_CTX_SIZE", "1"),
    ];
    let args = ServeArgs {
        ctx_size: Some(4),
        ..ServeArgs::default()
    };
    assert_eq!(Settings::new(args, &env(&all)).unwrap().context, Context::Exactly(4));
    for (skip, expected) in [(0, 3), (1, 2), (2, 1)] {
        assert_eq!(settings(&all[skip..]).unwrap().context, Context::Exactly(expected));
    }
}

#[test]
fn existing_deployments_keep_working() {
    let s = settings(&[
        ("MODEL_PATH", "/app/models/ggml-model-i2_s.gguf"),
        ("OMP_NUM_THREADS", "auto"),
        ("BITNET_THREADS", "3"),
        ("BITNET_CTX_SIZE", "2048"),
        ("MODEL_WAIT_TIMEOUT", "60"),
        ("HOST", "127.0.0.1"),
        ("PORT", "8081"),
        ("BITNET_KERNEL", "i2_s"),
        ("CPU_AFFINITY", "auto"),
        ("BITNET_API_KEY", "secret"),
        ("WORKER_PROCESSES", "2"),
        ("LLAMA_ARG_CACHE_TYPE_K", "q8_0"),
        ("LLAMA_ARG_CACHE_TYPE_V", "f16"),
    ])
    .unwrap();
    assert_eq!(s.parallel, Parallel::Exactly(2));
    assert_eq!((s.cache.k, s.cache.v), (CacheType::Q8_0, CacheType::F16));
    assert_eq!(s.model.to_str(), Some("/app/models/ggml-model-i2_s.gguf"));
    assert_eq!(s.threads, Threads::Count(NonZeroUsize::new(3).unwrap()));
    assert_eq!(
        (s.context, s.port, s.kernel.as_deref()),
        (Context::Exactly(2048), 8081, None)
    );
    assert_eq!(s.model_wait_timeout, Duration::from_secs(60));
    assert!(s.api_keys.accepts("secret"));
    assert_eq!(s.warnings, Vec::<String>::new());
}

#[test]
fn a_preset_only_moves_defaults() {
    let s = settings(&[("USE_CASE", "memory_efficient"), ("BITNET_CTX_SIZE", "512")]).unwrap();
    assert_eq!(
        (s.context, s.parallel, s.batch),
        (Context::Exactly(512), Parallel::AtMost(1), 128)
    );
}

#[test]
fn empty_variables_and_kubernetes_service_links_are_unset() {
    let s = settings(&[
        ("PORT", ""),
        ("STERNA_PORT", "tcp://10.0.0.1:8080"),
        ("STERNA_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("STERNA_SERVICE_HOST", "10.0.0.1"),
        ("LLAMA_ARG_PORT", "9000"),
    ])
    .unwrap();
    assert_eq!((s.port, s.warnings.len()), (9000, 0));
    // As compose files pass what nobody set: every setting, those that are ignored, and those that there are none of.
    let ignored = IGNORED.iter().map(|(name, _)| (*name).to_owned());
    let unknown = ["LLAMA_ARG_N_GPU_LAYERS", "STERNA_CTXSIZE"].map(str::to_owned);
    for empty in ["", " "] {
        let names = VARIABLES.iter().flat_map(Variable::names);
        let all: Vec<String> = names.chain(ignored.clone()).chain(unknown.clone()).collect();
        let all: Vec<(&str, &str)> = all.iter().map(|name| (name.as_str(), empty)).collect();
        assert_eq!(format!("{:?}", settings(&all)), format!("{:?}", settings(&[])));
    }
}

#[test]
fn a_bad_value_names_its_variable() {
    for (name, value) in [
        ("PORT", "eighty"),
        ("HOST", "my-laptop"),
        ("STERNA_CTX_SIZE", "-1"),
        ("BITNET_THREADS", "0"),
        ("CPU_AFFINITY", "zero"),
        ("MODEL_WAIT_TIMEOUT", "soon"),
        ("USE_CASE", "fast"),
        ("LLAMA_ARG_MLOCK", "maybe"),
        ("STERNA_LOG_FORMAT", "xml"),
        ("STERNA_LOG_LEVEL", "a=b=c"),
        ("LOG_LEVEL", "verbose"),
        ("WORKER_PROCESSES", "0"),
    ] {
        let error = settings(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
}

#[test]
fn a_key_is_never_shown() {
    let error = settings(&[("BITNET_API_KEY", ",")]).unwrap_err().to_string();
    assert!(error.contains("BITNET_API_KEY") && !error.contains("`,`"), "{error}");
    let s = settings(&[("BITNET_API_KEY", "one, two")]).unwrap();
    assert!(s.api_keys.accepts("one") && s.api_keys.accepts("two"));
    assert!(!s.api_keys.accepts("on") && !s.api_keys.accepts("") && !s.api_keys.accepts("ones"));
    assert!(!format!("{s:?}").contains("two"));
}

#[test]
fn llama_cpp_s_kinds_of_lookup_are_one_here() {
    for (text, expected) in [
        ("none", Speculation::Never),
        ("ngram", Speculation::WherePaying),
        ("ngram-mod", Speculation::WherePaying),
        ("ngram-map-k4v", Speculation::WherePaying),
    ] {
        let s = settings(&[("LLAMA_ARG_SPEC_TYPE", text)]).unwrap();
        assert_eq!(s.speculation, expected, "{text}");
    }
    assert_eq!(settings(&[]).unwrap().speculation, Speculation::WherePaying);
    for unknown in ["draft-mtp", "ngram-anything", "ngram-", "Ngram"] {
        let error = settings(&[("LLAMA_ARG_SPEC_TYPE", unknown)]).unwrap_err().to_string();
        assert!(error.contains("ngram or none"), "{error}");
    }
}

#[test]
fn what_does_nothing_is_said_once() {
    let s = settings(&[
        ("BITNET_BINARY", "/app/llama-cli"),
        ("HF_MODEL_ID", "microsoft/BitNet-b1.58-2B-4T-gguf"),
        ("LLAMA_ARG_N_GPU_LAYERS", "99"),
        ("STERNA_CTXSIZE", "1"),
        ("BITNET_KERNEL", "tl2"),
    ])
    .unwrap();
    let has = |name| s.warnings.iter().filter(|w| w.contains(name)).count() == 1;
    assert_eq!(s.warnings.len(), 5, "{:?}", s.warnings);
    assert!(
        [
            "BITNET_BINARY",
            "HF_MODEL_ID",
            "LLAMA_ARG_N_GPU_LAYERS",
            "STERNA_CTXSIZE",
            "tl2"
        ]
        .into_iter()
        .all(has)
    );
}

#[test]
fn no_name_stands_in_two_rows() {
    let mut names: Vec<String> = VARIABLES.iter().flat_map(Variable::names).collect();
    names.extend(IGNORED.iter().map(|(name, _)| (*name).to_owned()));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn the_documentation_has_every_row_of_the_table() {
    let page = include_str!("../../docs/serving.md");
    for row in VARIABLES {
        let names: Vec<String> = row.names().map(|name| format!("`{name}`")).collect();
        let line = page.lines().find(|line| line.contains(&names.join(", ")));
        assert!(
            line.is_some_and(|line| line.contains(&format!("--{}`", row.flag()))),
            "--{} {names:?}",
            row.flag()
        );
    }
    assert!(IGNORED.iter().all(|(name, _)| page.contains(&format!("`{name}`"))));
}

#[test]
fn cache_types_that_do_not_exist_here_are_refused_by_name() {
    let error = settings(&[("LLAMA_ARG_CACHE_TYPE_K", "q4_0")]).unwrap_err().to_string();
    assert!(
        error.contains("LLAMA_ARG_CACHE_TYPE_K") && error.contains("f16 or q8_0"),
        "{error}"
    );
}
