// Plugin instances: one per configuration, started by the first event that
// needs it, forgotten when a connection breaks, started again by the re-run.

package pluginhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	pb "github.com/Kong/go-pdk/server/kong_plugin_protocol"
)

// pluginConf is one resolved plugin configuration as Kong hands it to the
// plugin process.
type pluginConf struct {
	id   string // the plugin entity's id, key of the running instance
	seq  int64
	json []byte
}

// newConf completes a validated configuration with what Kong adds to it and
// gives it a new sequence number.
func (h *Host) newConf(config map[string]any, id, key, routeID, serviceID, instanceName string) (*pluginConf, error) {
	config["__plugin_id"] = id
	config["__key__"] = key
	config["__ws_id"] = workspaceID
	for name, value := range map[string]string{"route_id": routeID, "service_id": serviceID, "plugin_instance_name": instanceName} {
		if value != "" {
			config[name] = value
		}
	}
	c := &pluginConf{id: id, seq: h.seq.Add(1)}
	config["__seq__"] = c.seq
	var err error
	if c.json, err = json.Marshal(config); err != nil {
		return nil, fmt.Errorf("encode plugin configuration: %w", err)
	}
	return c, nil
}

// instances maps a plugin entity's id to what runs for it.
type instances struct {
	mu   sync.Mutex
	byID map[string]*instance
}

// instance is a running plugin instance. mu is held while it is being
// started, so that one event starts it and the others wait.
type instance struct {
	mu      sync.Mutex
	started bool
	seq     int64
	num     int32 // the plugin's own id of it
}

// instanceFor returns the id of the instance that runs conf, starting it when
// there is none yet.
func (h *Host) instanceFor(conf *pluginConf) (int32, error) {
	h.instances.mu.Lock()
	if h.instances.byID == nil {
		h.instances.byID = map[string]*instance{}
	}
	in := h.instances.byID[conf.id]
	if in == nil {
		in = new(instance)
		h.instances.byID[conf.id] = in
	}
	h.instances.mu.Unlock()

	in.mu.Lock()
	defer in.mu.Unlock()
	if in.started && in.seq == conf.seq {
		return in.num, nil
	}
	ret, err := h.call(&pb.RpcCall{Call: &pb.RpcCall_CmdStartInstance{
		CmdStartInstance: &pb.CmdStartInstance{Name: h.schema.Name, Config: conf.json},
	}}, nil)
	if err == nil && ret.GetInstanceStatus() == nil {
		err = errors.New("the plugin's answer has no instance status")
	}
	if err != nil {
		h.opts.Log("err", fmt.Sprintf("starting instance: %v", err))
		h.forget(conf.id, in)
		return 0, thrown{fmt.Errorf("starting instance: %w", err)}
	}
	old, had := in.num, in.started
	in.num, in.seq, in.started = ret.GetInstanceStatus().GetInstanceId(), conf.seq, true
	if had {
		// Another event may have closed it first: Kong does not look either.
		_, _ = h.call(&pb.RpcCall{Call: &pb.RpcCall_CmdCloseInstance{
			CmdCloseInstance: &pb.CmdCloseInstance{InstanceId: old},
		}}, nil)
	}
	return in.num, nil
}

func (h *Host) forget(id string, in *instance) {
	h.instances.mu.Lock()
	defer h.instances.mu.Unlock()
	if h.instances.byID[id] == in {
		delete(h.instances.byID, id)
	}
}

// resetInstances forgets every instance: a plugin that closed a connection
// may have been replaced by one that knows none of them.
func (h *Host) resetInstances() {
	h.instances.mu.Lock()
	clear(h.instances.byID)
	h.instances.mu.Unlock()
}

// handleEvent runs the phase of one request, again and again while the plugin
// closes the connection under it. It returns nil to let the request go on,
// errExit when the plugin ended it, and any other error where Kong answers 500.
func (h *Host) handleEvent(conf *pluginConf, phase string, tx *transaction) error {
	for {
		err := h.runEvent(conf, phase, tx)
		if err == nil || errors.Is(err, errExit) || !rerun(err) {
			return err
		}
		h.resetInstances()
		h.opts.Log("warn", err.Error())
		select {
		case <-h.done:
			return errors.New("the plugin host is shut down")
		case <-tx.gw.done:
			return errors.New("the gateway is shut down")
		default:
		}
		if limit := h.opts.MaxEvents; limit > 0 && tx.events >= limit {
			return fmt.Errorf("the %s event of one request was run %d times and its connection closed every time", phase, tx.events)
		}
	}
}

func (h *Host) runEvent(conf *pluginConf, phase string, tx *transaction) error {
	num, err := h.instanceFor(conf)
	if err != nil {
		return err
	}
	tx.events++
	_, err = h.call(&pb.RpcCall{Call: &pb.RpcCall_CmdHandleEvent{
		CmdHandleEvent: &pb.CmdHandleEvent{InstanceId: num, EventName: phase},
	}}, tx.answer)
	return err
}
