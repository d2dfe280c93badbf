package watch

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// The kinds of objects we read.
const (
	kindService = "Service"
	kindSlice   = "EndpointSlice"
	kindNode    = "Node"

	kindServiceCIDR = "ServiceCIDR"
)

// key identifies an object among those of all kinds.
type key struct {
	kind string
	name endpoints.ObjectName
}

func (k key) String() string {
	if k.name.Namespace == "" {
		return k.kind + " " + k.name.Name
	}
	return k.kind + " " + k.name.String()
}

// object is what is left of an API object once it has been converted. Immutable.
type object struct {
	service  *endpoints.Service // of a Service; nil: not to be served
	slice    *endpoints.Slice   // of an EndpointSlice; nil: not to be used
	node     *Node              // of a Node
	cidrs    []netip.Prefix     // of a ServiceCIDR
	trigger  time.Time          // of an EndpointSlice: what made it change; zero: unknown
	problems []error            // what had to be left out
}

// convert returns the key of a *Service, *EndpointSlice, *Node or *ServiceCIDR and what we need of it; no memory of
// obj but its strings is kept.
func convert(obj any, in *interner) (key, *object, error) {
	switch obj := obj.(type) {
	case *corev1.Service:
		k := key{kindService, endpoints.ObjectName{Namespace: obj.Namespace, Name: obj.Name}}
		service, problems := convertService(obj)
		return k, &object{service: service, problems: problems}, nil
	case *discoveryv1.EndpointSlice:
		k := key{kindSlice, endpoints.ObjectName{Namespace: obj.Namespace, Name: obj.Name}}
		slice, trigger, problems := convertSlice(obj, in)
		return k, &object{slice: slice, trigger: trigger, problems: problems}, nil
	case *corev1.Node:
		k := key{kindNode, endpoints.ObjectName{Name: obj.Name}}
		node, problems := convertNode(obj)
		return k, &object{node: node, problems: problems}, nil
	case *networkingv1.ServiceCIDR:
		k := key{kindServiceCIDR, endpoints.ObjectName{Name: obj.Name}}
		cidrs, problems := convertServiceCIDR(obj)
		return k, &object{cidrs: cidrs, problems: problems}, nil
	}
	return key{}, nil, fmt.Errorf("convert %T: not a Service, EndpointSlice, Node or ServiceCIDR", obj)
}

// findings collects what is wrong with one object.
type findings struct {
	key  key
	errs []error
}

func (f *findings) add(format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("%v: %w", f.key, fmt.Errorf(format, args...)))
}
