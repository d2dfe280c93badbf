package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

	"golang.org/x/time/rate"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// Reasons and actions of our Events. The first four pairs are kube-proxy's (parity 7.5).
const (
	reasonStarting       = "Starting"
	reasonHealthFailed   = "FailedToStartProxierHealthcheck"
	reasonMetricsFailed  = "FailedToStartMetricServer"
	reasonCheckFailed    = "FailedToStartServiceHealthcheck"
	reasonFrontendTaken  = "FrontendTaken" // another Service has it already
	reasonTableFull      = "TableFull"
	actionStart          = "StartKubeProxy"
	actionListen         = "Listen"
	actionProgram        = "Program"
	reportingController  = "svcproxy"
	eventBurst           = 25
	eventPeriod          = time.Second
	lastEventPatience    = 2 * time.Second
	lastEventsRemembered = 16
)

// recorder writes Events to the API server, in its own time: callers never wait, and what is too much is
// left out. A nil recorder writes none.
type recorder struct {
	node    string
	events  events.EventRecorder
	limit   *rate.Limiter
	created chan string // reasons of the Events that the server has
	log     *slog.Logger
}

// newRecorder returns a recorder that writes until ctx is done. Client should be nobody else's, so that
// Events do not delay what matters.
func newRecorder(ctx context.Context, client kubernetes.Interface, node string, log *slog.Logger) (*recorder, error) {
	r := &recorder{node: node, limit: rate.NewLimiter(rate.Every(eventPeriod), eventBurst), created: make(chan string, lastEventsRemembered), log: log}
	broadcaster := events.NewBroadcaster(&eventSink{&events.EventSinkImpl{Interface: client.EventsV1()}, r.created})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, fmt.Errorf("record events: %w", err)
	}
	context.AfterFunc(ctx, broadcaster.Shutdown)
	r.events = broadcaster.NewRecorder(scheme.Scheme, reportingController)
	return r, nil
}

// eventSink says which Events have been created.
type eventSink struct {
	events.EventSink
	created chan<- string
}

func (s *eventSink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	written, err := s.EventSink.Create(ctx, event)
	if err == nil {
		select {
		case s.created <- event.Reason:
		default: // nobody waits
		}
	}
	return written, err
}

// aboutNode writes an Event about this node.
func (r *recorder) aboutNode(kind, reason, action, note string) {
	if r != nil {
		r.write(&v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: r.node}, kind, reason, action, note)
	}
}

// aboutService writes a warning about a Service. The note says which node it comes from.
func (r *recorder) aboutService(name endpoints.ObjectName, reason, action, note string) {
	if r != nil {
		r.write(&v1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name},
			v1.EventTypeWarning, reason, action, "node "+r.node+" "+note)
	}
}

func (r *recorder) write(about *v1.ObjectReference, kind, reason, action, note string) {
	if !r.limit.Allow() {
		r.log.Debug("event left out: too many", "kind", about.Kind, "namespace", about.Namespace, "name", about.Name, "reason", reason, "note", note)
		return
	}
	r.events.Eventf(about, nil, kind, reason, action, "%s", note)
}

// lastWords writes an Event about this node and waits a moment until the API server has it: we are about to end.
func (r *recorder) lastWords(reason, note string) {
	if r == nil {
		return
	}
	r.aboutNode(v1.EventTypeWarning, reason, actionStart, note)
	timeout := time.After(lastEventPatience)
	for {
		select {
		case created := <-r.created:
			if created == reason {
				return
			}
		case <-timeout:
			return
		}
	}
}
