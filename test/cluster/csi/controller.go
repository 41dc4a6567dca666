package main

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	topologyKey   = "topology.linode.com/region"
	devicePathKey = "devicePath"
	minimumBytes  = 10 << 30
)

// controller turns the calls of provisioner, attacher and resizer into calls of the Linode API.
type controller struct {
	csi.UnimplementedControllerServer
	api    *linode
	region string
}

var handlePattern = regexp.MustCompile(`^([0-9]+)-.+$`)

// idOf reads the API's id from a handle. Linode's driver makes a number from any other text too; here it is refused.
func idOf(handle string) (int, error) {
	if found := handlePattern.FindStringSubmatch(handle); found != nil {
		if id, err := strconv.Atoi(found[1]); err == nil {
			return id, nil
		}
	}
	return 0, status.Errorf(codes.InvalidArgument, "volume id %q is not <id>-<label>", handle)
}

func internal(what string, id int, err error) error {
	return status.Errorf(codes.Internal, "%s volume %d: %v", what, id, err)
}

// labelOf is the volume's name as the provisioner made it (pvc-<16 hex digits>), cut to what the API takes. Drivers
// before 0.9 left the hyphen out.
func labelOf(name string) string { return name[:min(len(name), 32)] }

// sizeOf gives the bytes that Kubernetes is told and the GiB that the API is asked for. A request of 12.5Gi gets 12 GiB
// and is told 12.5: Linode's driver rounds down.
func sizeOf(wanted *csi.CapacityRange) (bytes int64, gib int) {
	bytes = max(wanted.GetRequiredBytes(), minimumBytes)
	return bytes, int(bytes >> 30)
}

func checkCapabilities(wanted []*csi.VolumeCapability) error {
	if len(wanted) == 0 {
		return status.Error(codes.InvalidArgument, "volume capabilities are required")
	}
	for _, one := range wanted {
		switch one.GetAccessMode().GetMode() {
		case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
			csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
			csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		default:
			return status.Errorf(codes.InvalidArgument, "invalid volume capability: %v", wanted)
		}
		if one.GetBlock() != nil {
			return status.Error(codes.InvalidArgument, "block volumes are not part of this driver")
		}
	}
	return nil
}

// CreateVolume finds the volume by its label when an earlier call made it.
func (c *controller) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if req.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume name is required")
	}
	if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	if req.GetVolumeContentSource() != nil {
		return nil, status.Error(codes.InvalidArgument, "unsupported volume content source type")
	}
	bytes, gib := sizeOf(req.GetCapacityRange())
	label := labelOf(req.GetName())
	found, err := c.api.list(ctx, label)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "list volumes: %v", err)
	}
	var made *volume
	switch len(found) {
	case 0:
		if made, err = c.api.create(ctx, label, c.regionOf(req), gib); err != nil {
			return nil, status.Errorf(codes.Internal, "create volume: %v", err)
		}
	case 1:
		made = &found[0]
	default:
		return nil, status.Errorf(codes.AlreadyExists, "more than one volume with the label %q exists", label)
	}
	if made.Size != gib {
		return nil, status.Errorf(codes.AlreadyExists, "volume %d already exists with size %d", made.ID, made.Size)
	}
	if made, err = c.api.await(ctx, made.ID, func(v *volume) bool { return v.Status == "active" }); err != nil {
		return nil, internal("wait for", made.ID, err)
	}
	segments := map[string]string{topologyKey: made.Region}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:           made.handle(),
		CapacityBytes:      bytes,
		VolumeContext:      segments,
		AccessibleTopology: []*csi.Topology{{Segments: segments}},
	}}, nil
}

func (c *controller) regionOf(req *csi.CreateVolumeRequest) string {
	for _, one := range append(req.GetAccessibilityRequirements().GetPreferred(), req.GetAccessibilityRequirements().GetRequisite()...) {
		if region := one.GetSegments()[topologyKey]; region != "" {
			return region
		}
	}
	return c.region
}

func (c *controller) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, err := idOf(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	found, err := c.api.get(ctx, id)
	if isNotFound(err) {
		return &csi.DeleteVolumeResponse{}, nil
	} else if err != nil {
		return nil, internal("get", id, err)
	}
	if found.LinodeID != nil {
		return nil, status.Error(codes.FailedPrecondition, "volume is in use")
	}
	if err := c.api.delete(ctx, id); err != nil {
		return nil, internal("delete", id, err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (c *controller) ControllerPublishVolume(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	id, err := idOf(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	linodeID, err := strconv.Atoi(req.GetNodeId())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "node id %q is no Linode's id", req.GetNodeId())
	}
	if err := checkCapabilities([]*csi.VolumeCapability{req.GetVolumeCapability()}); err != nil {
		return nil, err
	}
	found, err := c.api.get(ctx, id)
	if isNotFound(err) {
		return nil, status.Errorf(codes.NotFound, "volume not found: %d", id)
	} else if err != nil {
		return nil, internal("get", id, err)
	}
	if found.LinodeID != nil && !found.isOn(linodeID) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %d is already attached to linode %d", id, *found.LinodeID)
	}
	if found.LinodeID == nil {
		if err := c.api.attach(ctx, id, linodeID); err != nil {
			code := codes.Internal
			if strings.Contains(err.Error(), "is already attached") {
				code = codes.Unavailable
			}
			return nil, status.Errorf(code, "attach volume: %v", err)
		}
		if found, err = c.api.await(ctx, id, func(v *volume) bool { return v.isOn(linodeID) }); err != nil {
			return nil, internal("wait for the attachment of", id, err)
		}
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{devicePathKey: found.FilesystemPath}}, nil
}

func (c *controller) ControllerUnpublishVolume(ctx context.Context, req *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	done := &csi.ControllerUnpublishVolumeResponse{}
	id, err := idOf(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	found, err := c.api.get(ctx, id)
	if isNotFound(err) {
		return done, nil
	} else if err != nil {
		return nil, internal("get", id, err)
	}
	if found.LinodeID != nil && req.GetNodeId() != "" && strconv.Itoa(*found.LinodeID) != req.GetNodeId() {
		return done, nil
	}
	if err := c.api.detach(ctx, id); isNotFound(err) {
		return done, nil
	} else if err != nil {
		return nil, internal("detach", id, err)
	}
	if _, err := c.api.await(ctx, id, func(v *volume) bool { return v.LinodeID == nil }); err != nil {
		return nil, internal("wait for the detachment of", id, err)
	}
	return done, nil
}

func (c *controller) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	id, err := idOf(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	bytes, gib := sizeOf(req.GetCapacityRange())
	found, err := c.api.get(ctx, id)
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "get volume: %v", err)
	}
	if found.Size > gib {
		return nil, status.Error(codes.Internal, "volume cannot be resized to be smaller")
	}
	if err := c.api.resize(ctx, id, gib); err != nil {
		return nil, internal("resize", id, err)
	}
	if _, err := c.api.await(ctx, id, func(v *volume) bool { return v.Status == "active" }); err != nil {
		return nil, internal("wait for", id, err)
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: bytes, NodeExpansionRequired: true}, nil
}

// ListVolumes says where each volume is attached; with it the attacher finds out about volumes that others detached.
func (c *controller) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if req.GetStartingToken() != "" {
		return nil, status.Errorf(codes.Aborted, "invalid starting token: %q", req.GetStartingToken())
	}
	found, err := c.api.list(ctx, "")
	if err != nil {
		return nil, status.Errorf(codes.Internal, "list volumes: %v", err)
	}
	answer := &csi.ListVolumesResponse{}
	for _, one := range found {
		nodes := []string{}
		if one.LinodeID != nil {
			nodes = append(nodes, strconv.Itoa(*one.LinodeID))
		}
		answer.Entries = append(answer.Entries, &csi.ListVolumesResponse_Entry{
			Volume: &csi.Volume{VolumeId: one.handle(), CapacityBytes: int64(one.Size) << 30},
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: nodes},
		})
	}
	return answer, nil
}

func (c *controller) ValidateVolumeCapabilities(ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	id, err := idOf(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := c.api.get(ctx, id); isNotFound(err) {
		return nil, status.Errorf(codes.NotFound, "volume not found: %d", id)
	} else if err != nil {
		return nil, internal("get", id, err)
	}
	answer := &csi.ValidateVolumeCapabilitiesResponse{}
	if checkCapabilities(req.GetVolumeCapabilities()) == nil {
		answer.Confirmed = &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: req.GetVolumeCapabilities()}
	}
	return answer, nil
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, one := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: one}},
		})
	}
	return answer, nil
}
