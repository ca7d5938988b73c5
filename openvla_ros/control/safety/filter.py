"""The safety filter: (action, arm state, configuration, clock) -> (command, reasons). Not a certified safety system."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from openvla_ros import geometry
from openvla_ros.control.safety import rules
from openvla_ros.control.safety.arm import ArmModel, arm_model_problem
from openvla_ros.control.safety.arm_limit import ArmLimit
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.decision import Decision, State, Verdict
from openvla_ros.control.safety.motion import Accepted, Context, Limit, Monitor, Motion, Refused, Seen, to_action
from openvla_ros.control.safety.rules import paused
from openvla_ros.control.safety.rules.finite import arm_state_problem
from openvla_ros.control.safety.rules.freeze import is_still
from openvla_ros.control.safety.rules.fresh import arm_state_age_problem
from openvla_ros.errors import ConfigError
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import ArmState, Command, DriverState, Outcome, Pose, RuleReport, StampedAction

__all__ = ["Decision", "SafetyFilter", "State", "Verdict"]

_NO_ARM_MODEL = RuleReport("no_arm_model", "joint limits, singularities and collisions are not checked: no arm model")
_HOLD_AGAIN = 0.1  # [s] after which a HOLD that the driver has not taken is sent again
_MAX_ROUNDS = 8  # limits narrow a motion until none has anything left to do; two rounds are usual


class SafetyFilter:
    """Turns actions into bounded absolute commands, and stops the arm. Not thread-safe: one caller at a time.

    ``now`` [s] is the clock of the stamps. A step is added to the last accepted target; after a start, a stop, anything
    that the driver did by itself, or a loss of the arm state, to where the driver says that the arm's reference rests.
    Without ``arm_model`` the arm rules (joints, singularities, collisions) are absent, and so is the path of a command,
    without which no driver moves; every answer to no action says so.
    """

    def __init__(self, config: SafetyConfig, arm_model: ArmModel | None = None) -> None:
        self._arm_model = arm_model
        self._state = State.WAITING
        self._now = -math.inf
        self._arm: ArmState | None = None
        self._arm_rejected: RuleReport | None = None
        self._driver_ended: RuleReport | None = None  # what the driver did of its own accord
        self._displaced: RuleReport | None = None
        self._stop_reason = ""
        self._pressed = False
        self._accepted: Accepted | None = None
        self._motion_started = -math.inf
        self._seen: Seen | None = None
        self._not_before = -math.inf
        self._paused = False
        self._reset_at = 0.0
        self._sent_at = -math.inf
        self._still_actions = 0
        self._heartbeat = -math.inf
        self._e_stop_heard = -math.inf
        self._camera_heard = -math.inf
        self._arrivals: deque[float] = deque()  # of as many actions as the flood rule looks at
        self._command: Command | None = None
        self._configure(config)

    @property
    def state(self) -> State:
        """As of the last call that passed a time."""
        return self._state

    @property
    def last_command(self) -> Command | None:
        return self._command

    @property
    def measured(self) -> Pose | None:
        """Where the arm was measured last, of what could be believed."""
        return None if self._arm is None else self._arm.pose

    @property
    def stop_reason(self) -> str:
        """Why the filter is STOPPED: the first cause since the last reset. Empty when it is not."""
        return self._stop_reason

    @property
    def stop_pressed(self) -> bool:
        return self._pressed

    @property
    def config(self) -> SafetyConfig:
        return self._config

    def on_arm_state(self, state: ArmState) -> None:
        """The newest measurement. One that cannot be believed counts as if it had not arrived, and is reported."""
        if self._arm is not None and state.stamp < self._arm.stamp:
            return  # an older one that was overtaken
        problem = arm_state_problem(state)
        if self._arm_model is not None:
            problem = problem or arm_model_problem(state, self._arm_model)
        if problem:
            self._arm_rejected = RuleReport("arm_state", f"arm state not accepted: {problem}")
            return
        self._arm = state
        if state.driver is not None:
            self._hear(state.driver, state.stamp)

    def _hear(self, driver: DriverState, stamp: float) -> None:
        """What the driver did of its own accord. Going on from the last target would wind up against it."""
        if driver.displaced > self._reset_at:
            detail = "the joints were found elsewhere at once: moved while nobody looked, or misread. Look, then reset"
            self._displaced = RuleReport("displaced", detail)
        command = self._command
        if command is None or command.hold or self._accepted is None:
            return
        if driver.command_sequence == command.sequence:
            if driver.outcome in (Outcome.REFUSED, Outcome.HELD, Outcome.TIMED_OUT):
                what = driver.outcome.name.lower().replace("_", " ")
                detail = f"the arm driver says of the last command: {what}. The arm holds: {driver.detail}"
                self._driver_ended = RuleReport("driver", detail)
        elif stamp - self._sent_at > self._config.freshness.arm_state_max_age_s:
            self._driver_ended = RuleReport("driver", "the arm driver did not take the last command: it is lost")

    def on_heartbeat(self, now: float) -> None:
        """The operator is there. Needed only where ``deadman.timeout_s`` is set."""
        if math.isfinite(now):
            self._heartbeat = now

    def on_observation(self, now: float) -> None:
        """The policy has an image that it can use. Needed only where ``camera.timeout_s`` is set."""
        if math.isfinite(now):
            self._camera_heard = now

    def on_action(self, action: StampedAction, now: float) -> Decision:
        """Judges one action. The command of the decision, if there is one, is a motion or a HOLD."""
        if math.isfinite(now):
            self._arrivals.append(now)
        hold, reports = self._watch(now)
        try:
            context = self._judge(action)
            if hold is not None:
                raise Refused()  # the arm stops first; what for is among the reports
            asked = self._motion(action, context)
            motion, limited = self._narrow(asked, context)
        except Refused as refusal:
            if refusal.hold and self._accepted:
                hold = self._hold(action.sequence, action.episode_id)
                self._enter(self._idle)
            reports += refusal.reports
            return Decision(self._state, Verdict.REFUSED, hold, tuple(reports), action.action, None, action.sequence)
        self._state, self._paused = State.ACTIVE, False
        command = self._accept(action, motion, context)
        unchanged = motion.asks_the_same(asked)
        verdict = Verdict.ACCEPTED if unchanged else Verdict.LIMITED
        filtered = action.action if unchanged else to_action(motion)
        return Decision(self._state, verdict, command, (*reports, *limited), action.action, filtered, action.sequence)

    def tick(self, now: float) -> Decision:
        """The passing of time, at 50 Hz or more: notices silence, stale arm states, contact, a clock that jumps."""
        hold, reports = self._watch(now)
        return self._answer(hold or self._hold_again(), *reports)

    def stop(self, source: str, now: float) -> Decision:
        """Stops the arm and latches. Always answers with a HOLD, also when stopped already."""
        self._advance(now)
        return self._answer(self._latch(source))

    def press(self, pressed: bool, now: float) -> Decision:
        """The level of the stop button. Pressed stops and latches; released re-arms nothing."""
        rises = pressed and not self._pressed
        self._pressed = pressed
        if math.isfinite(now):
            self._e_stop_heard = now
        if rises or (pressed and self._state is not State.STOPPED):
            return self.stop("e-stop pressed", now)
        return self.tick(now)

    def reset(self, now: float) -> tuple[bool, str]:
        """Re-arms after a stop: (whether it did, what was done or what stands in the way)."""
        if not self._stop_reason:
            return True, "not stopped: nothing to reset"
        problem = self._advance(now)
        self._displaced = None  # whoever resets has looked
        obstacles = [problem, self._arm_problem(), *self._reports_of(self._monitors)]
        details = [obstacle.detail for obstacle in obstacles if obstacle is not None]
        if self._pressed:
            details.insert(0, "the stop is still pressed")
        if details:
            return False, f"not reset, stopped by {self._stop_reason}: " + "; ".join(details)
        was, self._stop_reason = self._stop_reason, ""
        self._paused = True
        self._enter(self._idle)
        self._not_before = self._reset_at = self._now
        return True, f"re-armed after {was}; nothing moves yet: resume, activate the policy or give another instruction"

    def resume(self, now: float) -> tuple[bool, str]:
        """The deliberate act after a reset: (whether actions pass now, what was done or what stands in the way)."""
        self._advance(now)
        if self._stop_reason:
            return False, f"stopped by {self._stop_reason}: reset first"
        if not self._paused:
            return True, "not paused: nothing to resume"
        self._paused = False
        self._enter(self._idle)
        self._not_before = self._now
        return True, "the next action moves the arm, with small steps"

    def update(self, config: SafetyConfig) -> None:
        """Takes new parameters. ConfigError while the arm moves, for those that must not change under it."""
        moving = self._state is State.ACTIVE or (self._accepted is not None and self._now < self._accepted.until)
        for (name, old, facts), (_, new, _) in zip(self._config.fields(), config.fields(), strict=True):
            if moving and old != new and not facts["live"]:
                raise ConfigError(
                    f"{name} cannot change while the arm is moving: stop the filter, change it, then reset"
                )
        self._configure(config)

    def _configure(self, config: SafetyConfig) -> None:
        self._config = config
        self._arrivals = deque(self._arrivals, maxlen=config.rate.max_actions_per_s + 1)
        self._gates = [rule(config) for rule in rules.GATES]
        self._limits: list[Limit] = [rule(config) for rule in rules.LIMITS]
        self._monitors: list[Monitor] = [rule(config) for rule in rules.MONITORS]
        self._pauses: list[Monitor] = [rule(config) for rule in rules.PAUSES]
        self._arm_limit = None
        if self._arm_model is not None:
            model = config.place(self._arm_model)
            self._arm_limit = ArmLimit(config, model, [rule(config, model) for rule in rules.ARM_RULES])
            self._limits.append(self._arm_limit)  # last: the others cost less, and narrow what it has to search

    # Time and state

    def _watch(self, now: float) -> tuple[Command | None, list[RuleReport]]:
        """Takes the time and enters the state that follows: (a HOLD where the arm must stop for it, what happened)."""
        ended, driver = self._driver_ended, self._driver
        moved = RuleReport("unexpected_motion", driver.unexpected) if driver and driver.unexpected else None
        reports = [report for report in (self._arm_rejected, ended, moved) if report]
        self._arm_rejected = self._driver_ended = None
        clock = self._advance(now)
        faults = [clock] if clock else self._faults()
        if self._stop_reason:
            return None, reports + faults
        if faults:
            return self._latch(f"{faults[0].rule}: {faults[0].detail}"), reports + faults
        if self._arm_problem():
            hold = self._hold() if self._accepted else None
            self._enter(State.WAITING)
            return hold, reports
        if ended and self._accepted and self._command:
            hold = self._hold(self._command.action_sequence, self._command.episode_id)
            self._enter(self._idle)
            return hold, reports
        if self._accepted and self._reports_of(self._pauses):
            hold = self._hold()
            self._enter(self._idle)
            return hold, reports
        if self._state is State.WAITING:
            self._enter(self._idle)
            self._not_before = self._now
        elif self._silence() > self._config.watchdog.silence_s:
            self._state = self._idle
        return None, reports

    @property
    def _driver(self) -> DriverState | None:
        """What the driver told with the newest measurement."""
        return self._arm.driver if self._arm else None

    @property
    def _idle(self) -> State:
        """Armed, without a valid action."""
        return State.PAUSED if self._paused else State.HOLDING

    def _faults(self) -> list[RuleReport]:
        return [*self._reports_of(self._monitors), *([self._displaced] if self._displaced else [])]

    def _hold_again(self) -> Command | None:
        """A HOLD that the driver has not taken yet is said again."""
        driver, command = self._driver, self._command
        if driver is None or command is None or not command.hold or driver.command_sequence == command.sequence:
            return None
        return self._hold() if self._now - self._sent_at > _HOLD_AGAIN else None

    def _advance(self, now: float) -> RuleReport | None:
        """Takes the time. A clock that went backwards makes everything known so far worthless, and is a fault."""
        if not math.isfinite(now):
            return RuleReport("clock", f"the time is not finite: {now}")
        back = self._now - now
        self._now = max(self._now, now)
        if back <= self._config.clock.backwards_tolerance_s:
            return None
        self._now = now
        self._arm = self._seen = None
        self._heartbeat = self._e_stop_heard = self._camera_heard = -math.inf
        self._arrivals.clear()
        limit = self._config.clock.backwards_tolerance_s
        return RuleReport("clock", "the clock went backwards [s]", back, 0.0, limit)

    def _arm_problem(self) -> RuleReport | None:
        limits = self._config.freshness
        return arm_state_age_problem(self._arm, self._now, limits.arm_state_max_age_s, limits.future_tolerance_s)

    def _reports_of(self, monitors: list[Monitor]) -> list[RuleReport]:
        context = self._context()
        return [report for monitor in monitors if (report := monitor(context)) is not None]

    def _silence(self) -> float:
        """Seconds without an accepted action."""
        return math.inf if self._accepted is None else self._now - self._accepted.at

    def _enter(self, state: State) -> None:
        """Enters a state in which the arm has no target to go on from: the next motion starts where it is measured."""
        self._state = state
        self._accepted = None
        self._still_actions = 0

    def _latch(self, reason: str) -> Command:
        self._stop_reason = self._stop_reason or reason or "stop"  # never empty: that would be no latch
        self._enter(State.STOPPED)
        return self._hold()

    def _why(self) -> list[RuleReport]:
        """Why the state is not ACTIVE."""
        if self._state is State.STOPPED:
            return [RuleReport("stopped", self._stop_reason)]
        if self._state is State.WAITING:
            problem = self._arm_problem()
            return [problem] if problem else []
        if self._state is State.PAUSED:
            return [RuleReport(paused.CODE, paused.DETAIL)]
        if self._state is State.HOLDING:
            limit = self._config.watchdog.silence_s
            watchdog = RuleReport("watchdog", "no valid action for [s]", self._silence(), float("nan"), limit)
            return [*self._reports_of(self._pauses), watchdog]
        return []

    def _answer(self, command: Command | None, *reports: RuleReport) -> Decision:
        unchecked = () if self._arm_model else (_NO_ARM_MODEL,)
        return Decision(self._state, Verdict.NO_ACTION, command, (*unchecked, *reports, *self._why()))

    # From an action to a command

    def _context(self) -> Context:
        starts = self._silence() > self._config.ramp_in.after_silence_s
        limits = self._config.motion
        return Context(
            now=self._now,
            arm=self._arm,
            start=self._now + limits.lead_s,
            window=limits.window,
            rest=self._driver.reference if self._driver else None,
            paused=self._paused,
            paused_at=self._reset_at,
            stop_reason=self._stop_reason,
            active=self._state is State.ACTIVE,
            accepted=self._accepted,
            seen=self._seen,
            not_before=self._not_before,
            motion_started=self._now if starts else self._motion_started,
            still_actions=self._still_actions,
            heartbeat=self._heartbeat,
            e_stop_heard=self._e_stop_heard,
            camera_heard=self._camera_heard,
            arrivals=self._arrivals,
        )

    def _judge(self, action: StampedAction) -> Context:
        """Asks every gate; Refused with all that object."""
        context = self._context()
        reports: list[RuleReport] = []
        for gate in self._gates:
            reports += gate(action, context)
        if reports:
            raise Refused(*reports)
        self._seen = Seen(action.sequence, action.stamp, action.observation_stamp)
        still = is_still(action.action, self._accepted, self._config.freeze)
        self._still_actions = self._still_actions + 1 if still else 0
        return self._context()

    def _motion(self, action: StampedAction, context: Context) -> Motion:
        """What is asked, from where the arm is commanded to be."""
        anchor = self._accepted.target if self._accepted else self._rest()
        translation = np.array(action.action.translation, dtype=np.float64)
        rotvec = geometry.to_rotvec(geometry.from_rpy(action.action.rotation))
        start = context.start
        if self._accepted:  # in order, or the course would leave the targets' hull, and with it the workspace
            start = max(start, self._accepted.course.steps[-1].start)
        return Motion(anchor, translation, rotvec, float(action.action.gripper), start, float(action.duration))

    def _narrow(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        """Applies every limit until none has anything left to do: what comes out satisfies all of them."""
        reports: list[RuleReport] = []
        content = 0  # how many in a row had nothing to do
        for limit in self._limits * _MAX_ROUNDS:
            before, (motion, found) = motion, limit(motion, context)
            reports += found
            content = content + 1 if motion is before else 0
            if content >= len(self._limits):
                break
        if content >= len(self._limits) and motion.is_finite():
            return motion, _first_of_each(reports)
        raise Refused(
            *_first_of_each(reports), RuleReport("unsettled", "the limits leave no motion that satisfies all of them")
        )

    def _accept(self, action: StampedAction, motion: Motion, context: Context) -> Command:
        course = context.course(motion).then(motion.step())
        trajectory = None
        if self._arm_limit is not None:
            path = self._arm_limit.path(motion, context)
            trajectory = Trajectory(path.times, path.positions, path.velocities)
        continues = self._command.sequence if self._accepted and self._command else 0
        self._motion_started = context.motion_started
        self._accepted = Accepted(course, motion.gripper, self._now, trajectory)
        return self._send(
            Command(
                target=_frozen(course.target()),
                gripper=motion.gripper,
                duration=course.end - context.start,
                sequence=self._next_sequence,
                action_sequence=action.sequence,
                episode_id=action.episode_id,
                path=trajectory,
                continues=continues,
            )
        )

    def _hold(self, action_sequence: int = 0, episode_id: str = "") -> Command:
        """Stop and hold. The target only informs: measured, else last commanded, else the base frame's origin."""
        if self._arm is not None:
            target = self._measured()
        else:
            target = self._command.target if self._command else Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
        # As last commanded, not as measured: a held object stays held.
        gripper = self._command.gripper if self._command else self._arm.gripper if self._arm else 0.0
        return self._send(Command(target, gripper, 0.0, self._next_sequence, action_sequence, episode_id, hold=True))

    @property
    def _next_sequence(self) -> int:
        return self._command.sequence + 1 if self._command else 1

    def _send(self, command: Command) -> Command:
        self._command, self._sent_at = command, self._now
        return command

    def _rest(self) -> Pose:
        """Where the arm's reference rests: by the driver's word, else where it is measured. Refused while it moves."""
        assert self._arm is not None
        driver = self._arm.driver
        if driver is None:
            return self._measured()
        if self._command is not None and driver.command_sequence != self._command.sequence:
            raise Refused(RuleReport("driver", "the arm driver has not taken the last command yet: the arm holds"))
        if not driver.at_rest:
            raise Refused(RuleReport("driver", "the arm comes to rest first"))
        if self._arm_model is None:
            return self._measured()
        lag, limit = float(abs(driver.reference - self._arm.joint_positions).max()), self._config.joints.max_lag_rad
        if lag > limit:
            detail = "the arm is not where it is told to be [rad]: the driver lets go of that first"
            raise Refused(RuleReport("driver", detail, lag, 0.0, limit))
        return _frozen(self._arm_model.forward(driver.reference))

    def _measured(self) -> Pose:
        assert self._arm is not None
        pose = self._arm.pose
        return _frozen(Pose(np.array(pose.position), pose.quaternion / np.linalg.norm(pose.quaternion)))


def _first_of_each(reports: list[RuleReport]) -> list[RuleReport]:
    """A rule may fire again in a later round; what it was asked at first is what counts."""
    return list({(report.rule, report.detail): report for report in reversed(reports)}.values())[::-1]


def _frozen(pose: Pose) -> Pose:
    """The pose, its arrays read-only: whoever gets it cannot change where the next motion starts."""
    pose.position.flags.writeable = pose.quaternion.flags.writeable = False
    return pose
