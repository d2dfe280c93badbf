package watch

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// convertSlice returns what the model needs of slice, nil if it is not ours to use, the
// time of what made it change, and what had to be left out.
func convertSlice(slice *discoveryv1.EndpointSlice, in *interner) (*endpoints.Slice, time.Time, []error) {
	name := endpoints.ObjectName{Namespace: in.text(slice.Namespace), Name: slice.Name}
	found := findings{key: key{kindSlice, name}}
	if _, invisible := slice.Labels[corev1.IsHeadlessService]; invisible || slice.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, time.Time{}, nil
	}
	if slice.AddressType != discoveryv1.AddressTypeIPv4 && slice.AddressType != discoveryv1.AddressTypeIPv6 {
		found.add("addressType: %q is not IPv4, IPv6 or FQDN", slice.AddressType)
		return nil, time.Time{}, found.errs
	}
	service := slice.Labels[discoveryv1.LabelServiceName]
	if service == "" {
		found.add("label %s is missing", discoveryv1.LabelServiceName)
		return nil, time.Time{}, found.errs
	}
	s := &endpoints.Slice{
		Name:    name,
		Service: endpoints.ObjectName{Namespace: name.Namespace, Name: service},
		IPv6:    slice.AddressType == discoveryv1.AddressTypeIPv6,
		Ports:   slicePorts(slice.Ports, &found),
	}
	s.Endpoints = sliceEndpoints(slice.Endpoints, s.IPv6, in, &found)
	return s, triggerTime(slice, &found), found.errs
}

// slicePorts is. A port without name or number is legal and means nothing to us.
func slicePorts(ports []discoveryv1.EndpointPort, found *findings) []endpoints.SlicePort {
	usable := make([]endpoints.SlicePort, 0, len(ports))
	for i := range ports {
		p := &ports[i]
		if p.Name == nil || p.Port == nil || *p.Port == 0 {
			continue
		}
		var text corev1.Protocol
		if p.Protocol != nil {
			text = *p.Protocol
		}
		protocol, ok := parseProtocol(text)
		if !ok {
			found.add("port %q: protocol %q is not TCP, UDP or SCTP", *p.Name, text)
			continue
		}
		if *p.Port < 1 || *p.Port > maxPort {
			found.add("port %q: port %d is not 1 to %d", *p.Name, *p.Port, maxPort)
			continue
		}
		if slices.ContainsFunc(usable, func(u endpoints.SlicePort) bool { return u.Name == *p.Name && u.Protocol == protocol }) {
			found.add("port %q: there is another one of this name for %v", *p.Name, protocol)
			continue
		}
		usable = append(usable, endpoints.SlicePort{Name: *p.Name, Protocol: protocol, Port: uint16(*p.Port)})
	}
	return usable
}

func sliceEndpoints(eps []discoveryv1.Endpoint, ipv6 bool, in *interner, found *findings) []endpoints.Endpoint {
	usable := make([]endpoints.Endpoint, 0, len(eps))
	for i := range eps {
		ep := &eps[i]
		if len(ep.Addresses) == 0 {
			found.add("endpoints[%d]: has no address", i)
			continue
		}
		addr, err := parseAddr(ep.Addresses[0]) // the others are the same endpoint's
		if err != nil {
			found.add("endpoints[%d]: %w", i, err)
			continue
		}
		if addr.Is6() != ipv6 {
			found.add("endpoints[%d]: %v is not of the slice's addressType", i, addr)
			continue
		}
		if err := checkHost(addr); err != nil {
			found.add("endpoints[%d]: %v %w", i, addr, err)
			continue
		}
		c := &ep.Conditions // absent ones by
		e := endpoints.Endpoint{
			Addr:        addr,
			Ready:       c.Ready == nil || *c.Ready,
			Serving:     c.Serving == nil || *c.Serving,
			Terminating: c.Terminating != nil && *c.Terminating,
		}
		if ep.NodeName != nil {
			e.Node = in.text(*ep.NodeName)
		}
		if h := ep.Hints; h != nil {
			e.Zones = in.list(len(h.ForZones), func(i int) string { return h.ForZones[i].Name })
			e.Nodes = in.list(len(h.ForNodes), func(i int) string { return h.ForNodes[i].Name })
		}
		usable = append(usable, e)
	}
	return slices.Clip(usable)
}

// triggerTime is.
func triggerTime(slice *discoveryv1.EndpointSlice, found *findings) time.Time {
	text, ok := slice.Annotations[corev1.EndpointsLastChangeTriggerTime]
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		found.add("annotation %s: %q is not a time", corev1.EndpointsLastChangeTriggerTime, text)
	}
	return t
}
