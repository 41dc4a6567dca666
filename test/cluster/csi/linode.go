package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// volume is what the driver reads of the Linode API's volume. Size is in GiB, whatever the API calls it.
type volume struct {
	ID             int    `json:"id"`
	Label          string `json:"label"`
	Status         string `json:"status"`
	Size           int    `json:"size"`
	Region         string `json:"region"`
	LinodeID       *int   `json:"linode_id"`
	FilesystemPath string `json:"filesystem_path"`
}

func (v *volume) isOn(linodeID int) bool { return v.LinodeID != nil && *v.LinodeID == linodeID }

// handle is the id that Kubernetes knows the volume by.
func (v *volume) handle() string { return fmt.Sprintf("%d-%s", v.ID, v.Label) }

type apiError struct {
	status int
	reason string
}

func (e *apiError) Error() string { return fmt.Sprintf("[%d] %s", e.status, e.reason) }

func isNotFound(err error) bool {
	var api *apiError
	return errors.As(err, &api) && api.status == http.StatusNotFound
}

type linode struct {
	url   string
	token string
}

// call sends body as JSON when there is one, and reads the answer into the last argument unless it is nil.
func (l *linode) call(ctx context.Context, method, path, filter string, body, into any) error {
	var sent bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&sent).Encode(body); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, l.url+"/v4"+path, &sent)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+l.token)
	request.Header.Set("Content-Type", "application/json")
	if filter != "" {
		request.Header.Set("X-Filter", filter)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var said struct {
			Errors []struct{ Field, Reason string }
		}
		_ = json.NewDecoder(response.Body).Decode(&said)
		reasons := []string{}
		for _, one := range said.Errors {
			reasons = append(reasons, strings.TrimSpace(one.Field+" "+one.Reason))
		}
		return &apiError{status: response.StatusCode, reason: strings.Join(reasons, "; ")}
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(into)
}

func (l *linode) get(ctx context.Context, id int) (*volume, error) {
	found := &volume{}
	return found, l.call(ctx, http.MethodGet, fmt.Sprintf("/volumes/%d", id), "", nil, found)
}

// list gives one page of up to 500 volumes, of all or of those with a label.
func (l *linode) list(ctx context.Context, label string) ([]volume, error) {
	filter := ""
	if label != "" {
		written, err := json.Marshal(map[string]string{"label": label})
		if err != nil {
			return nil, err
		}
		filter = string(written)
	}
	page := struct{ Data []volume }{}
	err := l.call(ctx, http.MethodGet, "/volumes?page_size=500", filter, nil, &page)
	return page.Data, err
}

func (l *linode) create(ctx context.Context, label, region string, size int) (*volume, error) {
	made := &volume{}
	body := map[string]any{"label": label, "region": region, "size": size, "encryption": "disabled"}
	return made, l.call(ctx, http.MethodPost, "/volumes", "", body, made)
}

func (l *linode) delete(ctx context.Context, id int) error {
	return l.call(ctx, http.MethodDelete, fmt.Sprintf("/volumes/%d", id), "", nil, nil)
}

func (l *linode) attach(ctx context.Context, id, linodeID int) error {
	body := map[string]any{"linode_id": linodeID, "persist_across_boots": false}
	return l.call(ctx, http.MethodPost, fmt.Sprintf("/volumes/%d/attach", id), "", body, nil)
}

func (l *linode) detach(ctx context.Context, id int) error {
	return l.call(ctx, http.MethodPost, fmt.Sprintf("/volumes/%d/detach", id), "", nil, nil)
}

func (l *linode) resize(ctx context.Context, id, size int) error {
	return l.call(ctx, http.MethodPost, fmt.Sprintf("/volumes/%d/resize", id), "", map[string]any{"size": size}, nil)
}

// await asks for the volume until it is as wanted, for the five minutes that Linode's driver gives.
func (l *linode) await(ctx context.Context, id int, wanted func(*volume) bool) (*volume, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		found, err := l.get(ctx, id)
		if err != nil || wanted(found) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return found, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
