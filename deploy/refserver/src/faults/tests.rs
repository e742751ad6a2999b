use super::*;

fn steps(faults: &Faults, count: usize) -> Vec<AtStep> {
    let injector = Injector::new(faults.clone());
    (0..count).map(|_| injector.at_step()).collect()
}

#[test]
fn the_default_does_nothing_wrong() {
    let injector = Injector::new(Faults::default());
    let now = Instant::now();
    assert!(!injector.at_request() && injector.at_http_call(now).is_none() && !injector.at_factory());
    assert_eq!(injector.at_upgrade(now), AtUpgrade::Accept(Duration::ZERO));
    assert_eq!(injector.at_reset(), Duration::ZERO);
    assert_eq!(injector.at_step(), AtStep::Answer(Duration::ZERO));
    assert_eq!(injector.after_reset(), None);
    assert!(
        [injector.at_accept(), injector.at_session(), injector.after_data(), injector.after_last_word()] == [None; 4]
    );
    assert!(!injector.at_error() && !injector.at_pong() && !injector.before_step(u64::MAX));
    assert_eq!((injector.at_close(), injector.at_answer_head()), (CloseAnswer::Normal, 0));
    assert_eq!(injector.at_observation(7), AtObservation::default());
}

#[test]
fn a_seed_repeats_its_choices_and_keeps_its_share() {
    let faults = Faults { fail_step_rate: 0.25, seed: 9, ..Faults::default() };
    let first = steps(&faults, 4000);
    assert_eq!(first, steps(&faults, 4000));
    assert_ne!(first, steps(&Faults { seed: 10, ..faults }, 4000));
    let failed = first.iter().filter(|step| matches!(step, AtStep::Fail(_))).count();
    // Four standard deviations of a binomial(4000, 1/4) around 1000.
    assert!((890..=1110).contains(&failed), "{failed}");
}

#[test]
fn certain_faults_always_happen() {
    let always = Faults { drop_rate: 1.0, ..Faults::default() };
    assert!(steps(&always, 100).iter().all(|step| *step == AtStep::Drop));
    let always = Faults { stall_rate: 1.0, ..Faults::default() };
    assert!(steps(&always, 100).iter().all(|step| *step == AtStep::Stall));
}

#[test]
fn delays_repeat_with_their_seed_and_do_not_shift_each_other() {
    let spread: Delay = "uniform:10,90".parse().unwrap();
    let delays = Faults { connect_delay: spread, reset_delay: spread, step_delay: spread, ..Faults::default() };
    let alone = steps(&delays, 50);
    assert_eq!(alone, steps(&delays, 50));
    assert_ne!(alone, steps(&Faults { seed: 1, ..delays.clone() }, 50));

    let injector = Injector::new(delays.clone());
    let now = Instant::now();
    let mixed: Vec<AtStep> = (0..50)
        .map(|_| {
            let AtUpgrade::Accept(connect) = injector.at_upgrade(now) else { panic!("nothing is refused") };
            let (reset, step) = (injector.at_reset(), injector.at_step());
            assert!(AtStep::Answer(connect) != step && AtStep::Answer(reset) != step && connect != reset);
            step
        })
        .collect();
    assert_eq!(alone, mixed);

    // Nor do choices shift delays: a failed step has the delay that it would have had.
    let failing = steps(&Faults { fail_step_rate: 0.5, ..delays }, 50);
    let delay = |step: &AtStep| match step {
        AtStep::Answer(delay) | AtStep::Fail(delay) => *delay,
        AtStep::Drop | AtStep::Stall => panic!("not asked for"),
    };
    assert!(failing.iter().map(delay).eq(alone.iter().map(delay)));
}

#[test]
fn an_episode_ends_with_its_step() {
    let injector = Injector::new(Faults { done_after: 2, ..Faults::default() });
    let done = |steps| injector.at_observation(steps).done;
    assert_eq!([done(0), done(1), done(2)], [false, false, true]);
    assert_eq!([0, 1, 2, 3].map(|steps| injector.before_step(steps)), [false, false, true, true]);
}

#[test]
fn a_text_grows_up_to_its_bound() {
    let text = |reply_bytes, reply_growth_bytes, steps| {
        Injector::new(Faults { reply_bytes, reply_growth_bytes, ..Faults::default() }).at_observation(steps).text_bytes
    };
    assert_eq!(text(10, 0, 5), Some(10));
    assert_eq!(text(10, 3, 5), Some(25));
    assert_eq!((text(0, 3, 0), text(0, 3, 1)), (Some(0), Some(3)));
    assert_eq!(text(u64::MAX, u64::MAX, u64::MAX), Some(1 << 30));
}

#[test]
fn unreadiness_passes_and_comes_before_other_refusals() {
    let unready = Unready { status: 503, duration: Duration::from_secs(2), retry_after: Some("2".into()) };
    let faults = Faults { unready: Some(unready), refuse_upgrade: Some(502), no_http: true, ..Faults::default() };
    let injector = Injector::new(faults);
    let at = |milliseconds| injector.started + Duration::from_millis(milliseconds);
    let rejection = Rejection { status: 503, retry_after: Some("2") };
    assert_eq!(injector.at_upgrade(at(1999)), AtUpgrade::Refuse(rejection));
    assert_eq!(injector.at_http_call(at(1999)), Some(rejection));
    assert_eq!(injector.at_upgrade(at(2000)), AtUpgrade::Refuse(Rejection::status(502)));
    assert_eq!(injector.at_http_call(at(2000)), Some(Rejection::status(404)));
}

#[test]
fn the_first_session_alone_ends_the_process() {
    let injector = Injector::new(Faults { exit_after: Some(Duration::ZERO), ..Faults::default() });
    assert_eq!([injector.at_session(), injector.at_session()], [Some(Duration::ZERO), None]);
}
