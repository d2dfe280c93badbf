package main

import (
	"errors"
	"strings"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// driftsLogged is how many lines an audit writes at most: somebody may have wiped a table.
const driftsLogged = 20

// mendPins puts back pins and programs that somebody has removed. An error is that another agent has
// taken our place.
func (a *agent) mendPins() error {
	defer a.mend.Reset(a.config.SyncPeriod())
	lost, err := a.claim.Renew()
	if errors.Is(err, bpf.ErrClaimed) {
		return err
	}
	if lost {
		a.log.Warn("somebody has removed our directory of pins", "bpfRoot", a.config.BPFRoot)
	}
	if err == nil {
		var mended []string
		mended, err = a.datapath.Mend(a.config.CgroupRoot)
		for _, what := range mended {
			kind := "programs"
			if strings.HasPrefix(what, "pin") {
				kind = "pins"
			}
			a.metrics.Drifted(kind)
		}
		if len(mended) > 0 {
			a.log.Warn("put back what somebody has removed", "what", mended)
		}
	}
	if err != nil {
		a.log.Error("what somebody has removed cannot be put back", "error", err, "retry", a.config.SyncPeriod())
	}
	return nil
}

func (a *agent) scheduleAudit() {
	if period := a.config.AuditPeriod; period > 0 {
		a.audit.Reset(period)
	}
}

// beginAudit begins to compare the tables with what they should say. While something is wrong with them that
// is known, that comes first.
func (a *agent) beginAudit() {
	if a.auditing != nil {
		return
	}
	if a.auditing = a.reconciler.Audit(); a.auditing == nil {
		a.audit.Reset(a.config.SyncPeriod())
		return
	}
	audit := a.auditing
	go func() { a.auditRead <- audit.Read() }()
}

// haveRead reports whether the audit is to go on.
func (a *agent) haveRead(err error) bool {
	if err == nil {
		return true
	}
	a.log.Error("read the tables to compare them with what they should say", "error", err)
	a.auditing.Close()
	a.auditing = nil
	a.scheduleAudit()
	return false
}

// stepAudit compares a little, so that changes wait for no more than that.
func (a *agent) stepAudit() {
	if !a.auditing.Step() {
		return
	}
	found := a.auditing.Found()
	a.auditing, a.audited = nil, false
	a.metrics.Audited()
	for i, drift := range found {
		a.metrics.Drifted(drift.Table)
		switch {
		case drift.Err != nil:
			a.log.Error("an entry that somebody has changed cannot be put right", "table", drift.Table, "entry", drift.What, "error", drift.Err)
		case i < driftsLogged:
			a.log.Warn("put right an entry that somebody has changed", "table", drift.Table, "entry", drift.What)
		}
	}
	a.countWrites()
	a.log.Info("tables compared with what they should say", "differences", len(found))
	a.scheduleAudit()
}
