package health

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Proxy knows whether the kernel's tables keep up with the API, and answers /healthz, /livez (R-7.1 to
// ) and /readyz. Safe for concurrent use.
type Proxy struct {
	timeout  time.Duration
	now      func() time.Time
	answered func(path string, code int)

	mu       sync.Mutex
	eligible bool
	awaiting []string
	updated  map[corev1.IPFamily]time.Time
	pending  map[corev1.IPFamily]time.Time // since when a change waits
}

// Options of a [Proxy].
type Options struct {
	Timeout  time.Duration               // a change that waits this long is ill health: twice the sync period
	Now      func() time.Time            // the clock
	Answered func(path string, code int) // called for each answer to /healthz and /livez; may be nil
}

// NewProxy returns a Proxy that is healthy, not ready, and on a node that is not eligible because nothing
// is known of it.
func NewProxy(o Options) *Proxy {
	if o.Answered == nil {
		o.Answered = func(string, int) {}
	}
	return &Proxy{timeout: o.Timeout, now: o.Now, answered: o.Answered, awaiting: []string{"first sync"},
		updated: map[corev1.IPFamily]time.Time{}, pending: map[corev1.IPFamily]time.Time{}}
}

// QueuedUpdate says that a change of the family waits to be written.
func (p *Proxy) QueuedUpdate(family corev1.IPFamily) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.pending[family]; !ok {
		p.pending[family] = p.now()
	}
}

// Updated says that all changes of the family have been written. Kube-proxy also calls it once when its
// loop starts: a family that was never updated is not examined.
func (p *Proxy) Updated(family corev1.IPFamily) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pending, family)
	p.updated[family] = p.now()
}

// SetNodeEligible says whether load balancers should send to this node; see [NodeEligible].
func (p *Proxy) SetNodeEligible(eligible bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eligible = eligible
}

// SetAwaiting says what is missing before the first full sync is in the kernel. Nothing: ready.
func (p *Proxy) SetAwaiting(what ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awaiting = slices.Clone(what)
}

// Healthy reports what /livez answers.
func (p *Proxy) Healthy() bool { return p.report().Healthy }

// NodeEligible is: a node that is unknown, being deleted, or about to be removed by the cluster
// autoscaler should get no new connections from load balancers.
func NodeEligible(node *corev1.Node) bool {
	return node != nil && node.DeletionTimestamp.IsZero() &&
		!slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "ToBeDeletedByClusterAutoscaler" })
}

// The bodies, field by field as kube-proxy's.
type report struct {
	LastUpdated  time.Time                        `json:"lastUpdated"`
	CurrentTime  time.Time                        `json:"currentTime"`
	NodeEligible *bool                            `json:"nodeEligible,omitempty"`
	Healthy      bool                             `json:"healthy"` // of the data path, whatever the node is
	Status       map[corev1.IPFamily]familyReport `json:"status,omitempty"`
}

type familyReport struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

type readyReport struct {
	Ready    bool     `json:"ready"`
	Awaiting []string `json:"awaiting,omitempty"`
}

func (p *Proxy) report() report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := report{CurrentTime: p.now(), Healthy: true, Status: map[corev1.IPFamily]familyReport{}}
	for family, updated := range p.updated {
		since, waits := p.pending[family]
		healthy := !waits || r.CurrentTime.Sub(since) < p.timeout
		r.Status[family] = familyReport{LastUpdated: updated, Healthy: healthy}
		r.Healthy = r.Healthy && healthy
		if updated.After(r.LastUpdated) {
			r.LastUpdated = updated
		}
	}
	return r
}

// Handler answers /healthz, /livez and /readyz, and 404 to the rest.
func (p *Proxy) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		r := p.report()
		p.mu.Lock()
		eligible := p.eligible
		p.mu.Unlock()
		r.NodeEligible = &eligible
		p.answer(w, "/healthz", r, r.Healthy && eligible)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		r := p.report()
		p.answer(w, "/livez", r, r.Healthy)
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		awaiting := p.awaiting
		p.mu.Unlock()
		ready := len(awaiting) == 0
		writeJSON(w, status(ready), readyReport{Ready: ready, Awaiting: awaiting})
	})
	return mux
}

// answer writes r. A good answer says that it is of now: there were times when lastUpdated was the last
// run of the loop, and somebody compares it with the clock.
func (p *Proxy) answer(w http.ResponseWriter, path string, r report, ok bool) {
	if ok {
		r.LastUpdated = r.CurrentTime
	}
	p.answered(path, status(ok))
	writeJSON(w, status(ok), r)
}

func status(ok bool) int {
	if ok {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// writeJSON writes body without a newline at its end. An error in writing is the client's.
func writeJSON(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // a clock beyond the year 9999
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeBody(w, code, text)
}

func writeBody(w http.ResponseWriter, code int, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(text)
}
