//! Which versions of agents get work: those of the same line as this program, and of the one before.
//!
//! A document of a job is refused by an agent that does not know a field of it, so a newer control plane talks to
//! agents one line older at most, and never to newer ones: the control plane is upgraded first.

/// Whether an agent of this version may work for a control plane of `own` version; the reason if not.
///
/// # Errors
/// The version cannot be read, or is too old or too new.
pub fn check(agent: &str, own: &str) -> Result<(), String> {
    let ours = line(own).ok_or_else(|| format!("{own} is no version"))?;
    let theirs = line(agent).ok_or_else(|| format!("{agent} is no version; install one from {own} on"))?;
    if theirs > ours {
        return Err(format!(
            "version {agent} is newer than the control plane ({own}); upgrade the control plane first"
        ));
    }
    let is_near = theirs == ours || (theirs.0 == ours.0 && theirs.1 + 1 == ours.1);
    let is_near = is_near || (theirs.0 + 1 == ours.0 && ours.1 == 0);
    if !is_near {
        return Err(format!("version {agent} is too old for the control plane ({own}); upgrade the agent"));
    }
    Ok(())
}

/// Major and minor number.
fn line(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split(['.', '-', '+']);
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn version_of_an_agent_may_be_one_line_behind() {
        for fits in ["1.4.0", "1.4.99", "1.3.0", "1.4.0-rc.1"] {
            assert_eq!(check(fits, "1.4.2"), Ok(()), "{fits}");
        }
        assert_eq!(check("1.9.0", "2.0.0"), Ok(()));
        for (wrong, says) in
            [("1.2.0", "too old"), ("1.5.0", "newer"), ("2.0.0", "newer"), ("x", "no version"), ("", "no version")]
        {
            let reason = check(wrong, "1.4.2").expect_err(wrong);
            assert!(reason.contains(says), "{reason}");
        }
    }
}
