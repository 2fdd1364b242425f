package tablespace

import "github.com/sakerdb/saker/internal/base"

// idleRun is a run that nothing lists since an edit.
type idleRun struct {
	r   *Run
	seq base.EditSeq
}

// mayGo reports whether the map says durably that nothing lists the run, once the
// edits up to durable are.
func (x *idleRun) mayGo(durable base.EditSeq) bool {
	return x.r.sealed.Load() && x.seq <= durable && base.EditSeq(x.r.sealSeq.Load()) <= durable
}

// idle notes that nothing lists r as of edit seq.
func (s *Space) idle(r *Run, seq base.EditSeq) {
	s.idleMu.Lock()
	s.idleRuns = append(s.idleRuns, idleRun{r, seq})
	s.idleMu.Unlock()
	s.forget(r)
}

// unlinkIdle unlinks what nothing lists since an edit that is durable. Runs
// still written to, or listed again, or read at the moment, are kept: the first
// and the last stay in the list. Before recovery has ended nothing goes: it may have
// listed one frame of a run again, seen it replaced, and not have come to the next.
func (s *Space) unlinkIdle(durable base.EditSeq) {
	if !s.recovered.Load() {
		return
	}
	s.collectMu.Lock()
	defer s.collectMu.Unlock()
	s.idleMu.Lock()
	list := s.idleRuns
	s.idleRuns = nil
	s.idleMu.Unlock()
	var keep []idleRun
	for _, x := range list {
		r := x.r
		switch refs := r.refs.Load(); {
		case refs&gone != 0 || r.listed.Load() != 0 || r.applied.Load() != 0:
			// Dropped, or it comes back to the list when its count does.
		case refs > 0 || !x.mayGo(durable):
			keep = append(keep, x)
		default:
			s.unlink(r)
		}
	}
	s.idleMu.Lock()
	s.idleRuns = append(s.idleRuns, keep...)
	s.idleMu.Unlock()
}
