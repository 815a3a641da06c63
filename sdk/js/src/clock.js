// The clock and chance, which a plugin must not have: the same event must give the same rows in every replay.
//
// A component has neither. Its clock traps; its `Math.random` would go on from a seed drawn when it was built, the same in
// every call, which looks like chance and is a mistake that nobody sees. So both throw and say what to do instead. Dates
// that are made from values work as ever.

function refuse(what) {
  return () => {
    throw new Error(
      `${what} is not to be had in a plugin, which must give the same rows in every replay: ` +
        "use event.received_at or event.event_time",
    );
  };
}

function dateWithoutNow(RealDate) {
  const now = refuse("the time of day");
  function Date(...values) {
    // Called as a function it tells the time whatever it is given.
    if (new.target === undefined || values.length === 0) return now();
    return Reflect.construct(RealDate, values, new.target === Date ? RealDate : new.target);
  }
  Date.prototype = RealDate.prototype;
  Date.now = now;
  Date.parse = RealDate.parse;
  Date.UTC = RealDate.UTC;
  return Date;
}

/** Globals that stand in for those that tell the time or draw lots, by name. */
export function withoutClockAndChance() {
  const math = Object.create(Math, { random: { value: refuse("Math.random") } });
  return { Date: dateWithoutNow(Date), Math: math, performance: { now: refuse("the time of day") } };
}
