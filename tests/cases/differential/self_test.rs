//! The comparison must be able to fail, and must say what failed.

use larder_tests::differential::{Flipper, Mismatch, Mix, Pair, Run};
use larder_tests::process::skip;
use larder_tests::redis::{redis_path, start_redis};

#[test]
fn one_altered_integer_reply_is_reported_with_its_history_and_a_replay_command() {
    let redis = match redis_path() {
        Ok(redis) => redis,
        Err(missing) => return skip("differential self-test", &missing),
    };
    let reference = start_redis(&redis, None).unwrap();
    let subject = start_redis(&redis, None).unwrap();
    for (seed, spared) in [(11, 0), (12, 7), (13, 60)] {
        let flipper = Flipper::start(subject.address(), spared).unwrap();
        let pair = Pair { reference: reference.address(), subject: flipper.address() };
        let error = Run::new(pair, seed, Mix::Data).unwrap().steps(390).unwrap_err();
        assert!(flipper.has_flipped());
        let report = error.downcast_ref::<Mismatch>().expect("a mismatch, not another error");
        assert!(report.to_string().contains(&format!("LARDER_SEED={seed} ")), "{report}");
        assert!(report.reference.starts_with(':') && report.subject.starts_with(':'), "{report}");
        assert_ne!(report.reference, report.subject);
        assert!(!report.history.is_empty());
    }
}

#[test]
fn without_an_altered_reply_the_same_seeds_are_clean() {
    let redis = match redis_path() {
        Ok(redis) => redis,
        Err(missing) => return skip("differential self-test", &missing),
    };
    let reference = start_redis(&redis, None).unwrap();
    let subject = start_redis(&redis, None).unwrap();
    let flipper = Flipper::start(subject.address(), i64::MAX).unwrap();
    let pair = Pair { reference: reference.address(), subject: flipper.address() };
    for seed in [11, 12, 13] {
        Run::new(pair, seed, Mix::Data).unwrap().steps(390).unwrap();
    }
    assert!(!flipper.has_flipped());
}

#[test]
fn a_key_that_only_one_server_holds_is_reported_by_the_comparison_of_contents() {
    let redis = match redis_path() {
        Ok(redis) => redis,
        Err(missing) => return skip("differential self-test", &missing),
    };
    let reference = start_redis(&redis, None).unwrap();
    let subject = start_redis(&redis, None).unwrap();
    let pair = Pair { reference: reference.address(), subject: subject.address() };
    let mut run = Run::new(pair, 1, Mix::Data).unwrap();
    subject.client().unwrap().expect_ok(&["SET", "extra", "1"]).unwrap();
    let error = run.compare_contents().unwrap_err();
    let report = error.downcast_ref::<Mismatch>().expect("a mismatch, not another error");
    assert!(report.subject.contains("extra"), "{report}");
}
