package endpoints

// census is what there is among the candidates of one family of a Service port, and so decides which
// of them each scope consists of: kube-proxy's CategorizeEndpoints (parity §2.2). Ready ones serve.
// Where none is ready, those do that serve while they terminate; Cluster and Local decide that each
// for themselves.
type census struct {
	ready      bool // a ready one, anywhere
	leaving    bool // one that serves while it terminates, anywhere
	localReady bool
	hints      hints
}

func count(candidates []candidate, view *View) census {
	n := census{hints: hintsOf(candidates, view)}
	for i := range candidates {
		c := &candidates[i]
		n.ready = n.ready || c.Ready
		n.leaving = n.leaving || c.leaving()
		n.localReady = n.localReady || c.Ready && c.Local
	}
	return n
}

// leaving reports whether c serves while it terminates: the last resort.
func (c *candidate) leaving() bool { return c.Serving && c.Terminating }

// any is §2.2's hasAny: some endpoint is usable, on whatever node. There it is asked of the Cluster set
// and, when Local is used, of all endpoints; as hints never empty the Cluster set, that is one question.
func (n *census) any() bool { return n.ready || n.leaving }

// has reports whether c belongs to scope.
func (n *census) has(scope Scope, c *candidate) bool {
	switch {
	case scope == Local && !c.Local:
		return false
	case scope == Local && n.localReady:
		return c.Ready // whatever its hints
	case scope == Cluster && n.ready:
		return c.Ready && n.hints.keep(c.endpoint)
	}
	return c.leaving() // whatever its hints
}

// verdict is that of a pool of scope with size backends. That nobody can answer beats every policy (§0).
func (n *census) verdict(scope Scope, size int) Verdict {
	switch {
	case size > 0:
		return Serve
	case scope == Local && n.any():
		return Drop
	}
	return Reject
}
